#!/bin/sh
# slimsmtp on the PATH: `docker exec CONTAINER slimsmtp VERB`, and the image's entry point.
exec /usr/local/bin/node --disallow-code-generation-from-strings --disable-proto=delete --max-semi-space-size=4 --initial-old-space-size=32 --no-parallel-scavenge --invocation-count-for-turbofan=20000 /usr/local/lib/slimsmtp/slimsmtp.mjs "$@"
