#!/bin/sh
# slimsmtp on the PATH: `docker exec CONTAINER slimsmtp VERB`, and the image's entry point.
exec /usr/local/bin/node --disallow-code-generation-from-strings --disable-proto=delete --max-semi-space-size=4 /usr/local/lib/slimsmtp/slimsmtp.mjs "$@"
