#!/bin/sh
# The server's own role in the database. It owns its tables and is no superuser: whoever takes over the mail server gets
# no further than them. The superuser cannot log in over the network; `docker compose exec -u postgres postgres psql`
# still can.
psql --set ON_ERROR_STOP=1 --set password="$POSTGRES_PASSWORD" --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE ROLE slimsmtp LOGIN PASSWORD :'password';
GRANT CREATE ON SCHEMA public TO slimsmtp;
ALTER TABLE smtp OWNER TO slimsmtp;
ALTER TABLE users OWNER TO slimsmtp;
ALTER ROLE CURRENT_USER PASSWORD NULL;
SQL
