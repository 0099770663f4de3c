# Stand-in for the official postgres:17-trixie (see engine.sh): Debian's own PostgreSQL 17 behind the same contract.
FROM debian:trixie-slim
LABEL stand-in=yes
RUN apt-get update && \
    apt-get install -y --no-install-recommends postgresql-17 && \
    rm -rf /var/lib/apt/lists/* /var/lib/postgresql/17 && \
    install -d -o postgres -g postgres -m 3777 /var/run/postgresql && \
    install -d -o postgres -g postgres -m 1777 /var/lib/postgresql/data && \
    mkdir /docker-entrypoint-initdb.d
COPY postgres-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
ENV PATH=/usr/lib/postgresql/17/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PGDATA=/var/lib/postgresql/data LANG=C.UTF-8
VOLUME /var/lib/postgresql/data
ENTRYPOINT ["docker-entrypoint.sh"]
STOPSIGNAL SIGINT
EXPOSE 5432
CMD ["postgres"]
