#!/bin/sh
# The standby, as the user postgres: at its first start a copy of the primary (PRIMARY, POSTGRES_PASSWORD), from then on
# what its volume has. It follows the primary until it is promoted.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  chmod 700 "$PGDATA"
  export PGPASSWORD="$POSTGRES_PASSWORD"
  until pg_basebackup --host="$PRIMARY" --username=replicator --pgdata="$PGDATA" --write-recovery-conf; do sleep 1; done
fi
exec postgres
