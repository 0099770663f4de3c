# Stand-in for the official node:24-trixie-slim (see engine.sh): Node 24 from npm, the machine's own npm and certificate
# authorities.
FROM debian:trixie-slim
LABEL stand-in=yes
COPY package/bin/ /usr/local/bin/
COPY package/include/ /usr/local/include/
COPY npm/ /usr/local/lib/node_modules/npm/
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm && \
    ln -s ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx && \
    groupadd --gid 1000 node && \
    useradd --uid 1000 --gid node --shell /bin/bash --create-home node
ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
CMD ["node"]
