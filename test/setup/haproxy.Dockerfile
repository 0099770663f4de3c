# Stand-in for the official haproxy:3.0 (see engine.sh): Debian's own HAProxy 3.0 behind the same contract.
FROM debian:trixie-slim
LABEL stand-in=yes
RUN apt-get update && \
    apt-get install -y --no-install-recommends haproxy && \
    rm -rf /var/lib/apt/lists/* /etc/haproxy && \
    mkdir -p /usr/local/etc/haproxy
USER haproxy
WORKDIR /var/lib/haproxy
STOPSIGNAL SIGUSR1
ENTRYPOINT ["haproxy", "-W", "-db"]
CMD ["-f", "/usr/local/etc/haproxy/haproxy.cfg"]
