#!/bin/sh
# Rerunnable. Applies /etc/elt/roles.sql and sets the roles' passwords from <ROLE>_PASSWORD. The image of PostgreSQL
# runs it when the volume is new; after a change of grants or passwords run it again:
#     docker compose exec warehouse-db sh /docker-entrypoint-initdb.d/roles.sh
set -eu

export PGOPTIONS="${PGOPTIONS-} -c client_min_messages=warning"
administer() { psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username postgres --dbname "$POSTGRES_DB" "$@"; }

administer --single-transaction --file /etc/elt/roles.sql
for role in $ROLES; do
    # Read from the environment by psql itself: an argument would show in the process list.
    variable=$(echo "$role" | tr '[:lower:]' '[:upper:]')_PASSWORD
    administer <<SQL
\\getenv password $variable
alter role $role password :'password';
SQL
done
