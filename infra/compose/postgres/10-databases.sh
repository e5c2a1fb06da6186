#!/bin/sh
# Runs once, on an empty volume: a role and a database of its own for each part, which no other role may connect to.
# UTF-8 by PostgreSQL's own rules, whatever the image's locale is: no index breaks when the C library's rules change.
set -eu
for name in LEDGER MLFLOW PREFECT FEAST; do
    export ROLE="$(echo $name | tr '[:upper:]' '[:lower:]')"
    eval "export ROLE_PASSWORD=\"\${${name}_DB_PASSWORD:?}\""
    # From the environment, not from an argument: `ps` shows arguments.
    psql -v ON_ERROR_STOP=1 --quiet --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\getenv role ROLE
\getenv password ROLE_PASSWORD
CREATE ROLE :"role" LOGIN PASSWORD :'password';
CREATE DATABASE :"role" OWNER :"role" TEMPLATE template0
    ENCODING 'UTF8' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8';
REVOKE ALL ON DATABASE :"role" FROM PUBLIC;
SQL
done
psql -v ON_ERROR_STOP=1 --quiet --username "$POSTGRES_USER" --dbname postgres <<'SQL'
REVOKE ALL ON DATABASE postgres FROM PUBLIC;
REVOKE ALL ON DATABASE template1 FROM PUBLIC;
SQL
