#!/bin/sh
# Container engine, base images, strace and Chromium for the integration tests, on machines that lack them; where all is
# there it takes a second.
# Promises: afterwards `docker info`, `docker compose` and `docker buildx` work and the base images exist, or it says in
# one line what is missing and exits 69. Needs root on Debian to install anything. A base image is built from Debian's
# and npm's packages, under the official name and with the label stand-in=yes, only where it can neither be found nor
# pulled, so that Dockerfile, compose.yaml and tests are the same everywhere. Never: ends a dockerd, not even its own
# (the next run finds it running), and never touches the machine's own apt sources.
set -eu
cd "$(dirname "$0")"
say() { echo "engine: $*" >&2; }
missing() { say "$*"; exit 69; }
can_install() { [ "$(id -u)" = 0 ] && grep -qs '^ID=debian' /etc/os-release; }
quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; missing "failed: $*"; }; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export DEBIAN_FRONTEND=noninteractive DOCKER_BUILDKIT=1

install_packages() {
  can_install || missing "missing here, and only installed by itself as root on Debian: $*"
  say "installing $*"
  quietly apt-get update
  quietly apt-get install -y --no-install-recommends "$@"
}

start_engine() {
  [ -z "${DOCKER_HOST:-}" ] || missing "no container engine answers at DOCKER_HOST=$DOCKER_HOST"
  can_install || missing 'no container engine answers here (see `docker info`), and this set-up can install and start one only as root on Debian.'
  command -v dockerd >/dev/null || install_packages docker.io iptables
  docker info >/dev/null 2>&1 && return # a service manager has started it
  if ! pidof dockerd >/dev/null; then
    # A hard stop leaves these behind, and then dockerd refuses: 'pid file found'.
    rm -f /var/run/docker.pid /var/run/docker/containerd/containerd.pid
    say 'starting dockerd (it stays; log: /var/log/dockerd.log)'
    setsid nohup dockerd >/var/log/dockerd.log 2>&1 </dev/null &
  fi
  for _ in $(seq 60); do
    docker info >/dev/null 2>&1 && return
    sleep 0.5
  done
  tail -n 5 /var/log/dockerd.log >&2 || true
  missing 'dockerd does not answer after 30 s'
}

# Debian 12 has no compose v2 and no buildx; Debian 13's are Go binaries that run there too. From the mirror that apt
# uses already, with apt's state apart.
install_plugins() {
  can_install || missing 'the container tests need the docker compose (v2) and buildx plugins: please install them.'
  say 'fetching the compose and buildx plugins from Debian trixie'
  from=$(mirror)
  mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/plugins"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $from trixie main" >"$work/apt/sources.list"
  set -- -o Dir::State::Lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache" -o Dir::Etc::SourceList="$work/apt/sources.list" \
    -o Dir::Etc::SourceParts=/dev/null -o APT::Sandbox::User=root
  quietly apt-get "$@" update
  (cd "$work/apt" && quietly apt-get "$@" download docker-compose docker-buildx)
  for package in "$work"/apt/*.deb; do dpkg-deb -x "$package" "$work/plugins"; done
  folder=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
  mkdir -p "$folder"
  cp "$work"/plugins/usr/libexec/docker/cli-plugins/docker-* "$folder/"
}

mirror() {
  found=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' 'Component: main' | head -n 1)
  if [ -z "$found" ]; then
    quietly apt-get update
    found=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' 'Component: main' | head -n 1)
  fi
  echo "${found:?no Debian mirror among the apt sources}"
}

have_image() { docker image inspect "$1" >/dev/null 2>&1 || docker pull --quiet "$1" >/dev/null 2>&1; }

debian_image() {
  have_image debian:trixie-slim && return
  command -v mmdebstrap >/dev/null || install_packages mmdebstrap
  say 'building a stand-in for debian:trixie-slim'
  from=$(mirror)
  quietly mmdebstrap --variant=minbase --include=ca-certificates --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --aptopt='Dir::Cache::pkgcache ""' --aptopt='Dir::Cache::srcpkgcache ""' \
    --customize-hook='cp docker-clean "$1/etc/apt/apt.conf.d/"' trixie "$work/root.tar" \
    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $from trixie main"
  quietly docker import --change 'CMD ["bash"]' --change 'LABEL stand-in=yes' "$work/root.tar" debian:trixie-slim
  rm "$work/root.tar"
}

node_image() {
  have_image node:24-trixie-slim && return
  debian_image
  say 'building a stand-in for node:24-trixie-slim'
  case $(uname -m) in aarch64) arch=arm64 ;; *) arch=x64 ;; esac
  version=$(sed -n "s/.*\"node-linux-$arch\": \"\([^\"]*\)\".*/\1/p" ../../.node24/package.json)
  mkdir "$work/node"
  (cd "$work/node" && quietly npm pack "node-linux-$arch@$version" && tar xzf ./*.tgz && rm ./*.tgz)
  cp -r "$(dirname "$(dirname "$(readlink -f "$(command -v npm)")")")" "$work/node/npm"
  cp /etc/ssl/certs/ca-certificates.crt "$work/node/"
  quietly docker build --tag node:24-trixie-slim --file node.Dockerfile "$work/node"
}

postgres_image() {
  have_image postgres:17-trixie && return
  debian_image
  say 'building a stand-in for postgres:17-trixie'
  quietly docker build --tag postgres:17-trixie --file postgres.Dockerfile .
}

dovecot_image() {
  # A stand-in of an earlier version has no LMTP.
  have_image dovecot/dovecot:2.4.2-root && docker inspect --format '{{.Config.ExposedPorts}}' dovecot/dovecot:2.4.2-root | grep -q 24/tcp && return
  debian_image
  say 'building a stand-in for dovecot/dovecot:2.4.2-root'
  quietly docker build --tag dovecot/dovecot:2.4.2-root --file dovecot.Dockerfile .
}

prometheus_image() {
  have_image prom/prometheus:v3.5.0 && return
  debian_image
  say 'building a stand-in for prom/prometheus:v3.5.0'
  quietly docker build --tag prom/prometheus:v3.5.0 --file prometheus.Dockerfile .
}

haproxy_image() {
  have_image haproxy:3.0 && return
  debian_image
  say 'building a stand-in for haproxy:3.0'
  quietly docker build --tag haproxy:3.0 --file haproxy.Dockerfile .
}

rspamd_image() {
  have_image rspamd/rspamd:3.12.1 && return
  debian_image
  say 'building a stand-in for rspamd/rspamd:3.12.1'
  quietly docker build --tag rspamd/rspamd:3.12.1 --file rspamd.Dockerfile .
}

docker info >/dev/null 2>&1 || start_engine
command -v strace >/dev/null || install_packages strace # ends the server at chosen system calls
# For the page; its fonts have Arabic, Hebrew and emoji.
[ -x /usr/bin/chromium ] || install_packages chromium fonts-dejavu-core fonts-noto-color-emoji
{ docker compose version && docker buildx version; } >/dev/null 2>&1 || install_plugins
debian_image
node_image
postgres_image
dovecot_image
prometheus_image
haproxy_image
rspamd_image
