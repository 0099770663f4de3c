# Prometheus, Debian's package with the contract of the official image: the user nobody, /prometheus,
# /etc/prometheus/prometheus.yml, promtool, busybox's wget.
FROM debian:trixie-slim
RUN apt-get update && \
    apt-get install -y --no-install-recommends busybox prometheus && \
    rm -rf /var/lib/apt/lists/* /etc/prometheus && \
    ln -s /usr/bin/busybox /usr/bin/wget && \
    install -d -o nobody -g nogroup /prometheus /etc/prometheus
USER nobody
EXPOSE 9090
VOLUME ["/prometheus"]
WORKDIR /prometheus
ENTRYPOINT ["/usr/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
LABEL stand-in=yes
