#!/bin/sh
# Postfix under the container's host name, with a certificate for it. Arguments are further settings.
set -eu
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=$(hostname)" -addext "subjectAltName=DNS:$(hostname)" \
  -keyout /etc/postfix/own.pem -out /etc/postfix/cert.pem 2>/dev/null
cat /etc/postfix/cert.pem >>/etc/postfix/own.pem
postconf -e "myhostname=$(hostname)" "$@"
# `postfix start` checks for a second what was checked when the image was built.
/usr/lib/postfix/sbin/master -w
# Not Postfix itself: tests stop and start it as they like.
exec sleep infinity
