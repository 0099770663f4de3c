# Stand-in for the official rspamd/rspamd:3.12.1 (see engine.sh): Debian's own Rspamd 3.12.1 behind the same contract:
# uid and gid 11333, the settings of /etc/rspamd/local.d, data in /var/lib/rspamd, workers that listen on all addresses,
# a log on the console.
FROM debian:trixie-slim
LABEL stand-in=yes
RUN apt-get update && \
    apt-get install -y --no-install-recommends rspamd && \
    rm -rf /var/lib/apt/lists/* && \
    groupmod --gid 11333 _rspamd && \
    usermod --uid 11333 _rspamd && \
    chown --recursive _rspamd: /var/lib/rspamd && \
    sed -i -e 's/localhost:/*:/' -e 's/type = "file"/type = "console"/' -e '/pidfile = /d' /etc/rspamd/rspamd.conf
USER 11333:11333
VOLUME ["/var/lib/rspamd"]
CMD ["/usr/bin/rspamd", "-f"]
EXPOSE 11332 11333 11334
