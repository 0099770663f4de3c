# Stand-in for the official dovecot/dovecot:2.4.2-root (see engine.sh): Debian's own Dovecot 2.4 behind the same
# contract.
FROM debian:trixie-slim
LABEL stand-in=yes
RUN apt-get update && \
    apt-get install -y --no-install-recommends dovecot-imapd dovecot-lmtpd ssl-cert tini && \
    rm -rf /var/lib/apt/lists/* /etc/dovecot && \
    mkdir -p /etc/dovecot/ssl && \
    make-ssl-cert generate-default-snakeoil && \
    ln -s /etc/ssl/certs/ssl-cert-snakeoil.pem /etc/dovecot/ssl/tls.crt && \
    ln -s /etc/ssl/private/ssl-cert-snakeoil.key /etc/dovecot/ssl/tls.key
ENV LC_ALL=C.UTF-8
EXPOSE 24 143 993
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["/usr/sbin/dovecot", "-F"]
