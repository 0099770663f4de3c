# The image: the server, bundled, on the official Node image, with what Unix accounts need.
# It starts as root, and that process is the steward (docs/security.md): mail is received by the user slim. `user: 1000`
# works too, without accounts.

FROM node:24-trixie-slim AS build
RUN apt-get update && \
    apt-get install -y --no-install-recommends g++ libpam0g-dev make python3 && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /build
# node-gyp takes the headers from here; it would fetch them otherwise.
ENV npm_config_nodedir=/usr/local
# Apart from the sources: a changed line does not install everything anew. The postinstall script compiles
# authenticate-pam.
COPY package.json package-lock.json ./
COPY .node24/ .node24/
RUN npm ci --no-audit --no-fund --loglevel=error
COPY src/ src/
RUN npm run build

FROM node:24-trixie-slim
# libnss-extrausers looks only below /var/lib/extrausers: a link puts the accounts into the data volume, and the root
# file system can stay read-only. New volumes are for everyone, as /tmp is, so that the server may run as any user: the
# first one makes them its own, and root takes SLIM_DATA back before it looks at anything in it. accounts/ is root's
# from the start.
# The user node goes because 1000 is the first uid for accounts. slim is 525:525 for good: files in volumes carry the
# number, and an IMAP server's container shares them.
RUN apt-get update && \
    apt-get install -y --no-install-recommends libnss-extrausers libpam0g && \
    rm -rf /var/lib/apt/lists/* /var/lib/extrausers /var/log/apt /var/log/dpkg.log /var/mail && \
    userdel --remove node && \
    groupadd --gid 525 slim && \
    useradd --uid 525 --gid slim --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin slim && \
    sed -i -E 's/^(passwd|group|shadow):.*/\1: files extrausers/' /etc/nsswitch.conf && \
    ln -s slimsmtp/accounts /var/lib/extrausers && \
    install -d -o root -g root -m 1777 /var/lib/slimsmtp && \
    install -d -o root -g root -m 0755 /var/lib/slimsmtp/accounts /home && \
    install -d -o slim -g slim -m 1777 /var/mail
COPY docker/pam.conf /etc/pam.d/slimsmtp
COPY --from=build /build/node_modules/authenticate-pam/package.json /usr/local/lib/slimsmtp/node_modules/authenticate-pam/package.json
COPY --from=build /build/node_modules/authenticate-pam/build/Release/authenticate_pam.node /usr/local/lib/slimsmtp/node_modules/authenticate-pam/build/Release/authenticate_pam.node
COPY docker/slimsmtp.sh /usr/local/bin/slimsmtp
COPY --from=build /build/dist/ /usr/local/lib/slimsmtp/
COPY src/web/page/ /usr/local/lib/slimsmtp/page/

# Accepted mail must outlive its container, also where nobody thought of -v. A new volume copies contents and owners of
# its mount point from here.
VOLUME ["/var/lib/slimsmtp", "/var/mail", "/home"]
ENV NODE_ENV=production SLIM_RUN_AS=slim UV_THREADPOOL_SIZE=16
EXPOSE 25 465 587
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["slimsmtp", "health"]
LABEL org.opencontainers.image.title="SlimSMTP" \
      org.opencontainers.image.description="A small, fast, durable SMTP server: one image, a handful of environment variables, mail in a Maildir." \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="MIT"
# Node is the first process and needs no init: it handles the signals itself, and every child of every process is waited
# for by the one that made it.
ENTRYPOINT ["slimsmtp"]
CMD ["serve"]
