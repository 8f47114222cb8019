"""The databases of the local server and their roles, each with no more than it needs."""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg import sql

from include.dbt import schemas
from include.local.errors import LocalError
from include.local.sample import SAMPLE, Sample
from include.local.servers import EmbeddedPostgres

WAREHOUSE = "warehouse"
METADATA = "airflow"
"""The database that Airflow keeps its own state in, and the role that owns it."""
ADMIN = "warehouse_admin"
"""The person at the keyboard: reads all of the warehouse, and may repair it as the loader and as dbt."""


def roles_of(sample: Sample | None) -> tuple[str, ...]:
    """The roles of the warehouse, of Airflow, and of the source beside them."""
    of_source = (sample.owner, sample.reader) if sample else ()
    return ("raw_loader", "dbt_transformer", "bi_reader", "elt_watcher", ADMIN, METADATA, *of_source)


ROLES = roles_of(SAMPLE)


def require_tables(uri: str, source: str) -> None:
    """Make sure that a source database of the user's own has the tables that its dbt source entry names.

    Raises:
        LocalError: one is missing, or not visible to the user of `uri`.
    """
    from include.sources import load_specs

    names = [(each.schema_name, each.identifier) for each in load_specs() if each.source == source]
    with psycopg.connect(uri) as connection:
        query = "select 1 from pg_class where relnamespace = to_regnamespace(%s) and relname = %s"
        missing = [name for name in names if not connection.execute(query, (f'"{name[0]}"', name[1])).fetchone()]
        database = connection.info.dbname
    if missing:
        raise LocalError(
            f"database {database} of AIRFLOW_CONN_{source.upper()} has no table {'.'.join(missing[0])}: create it, "
            f"take it out of dbt's {source} sources, or unset AIRFLOW_CONN_{source.upper()} to use the sample"
        )


def provision(server: EmbeddedPostgres, passwords: dict[str, str], sample: Sample | None = SAMPLE) -> None:
    """Create databases, roles and grants where they are missing, and set the roles' passwords.

    Args:
        server: A running server.
        passwords: One for each of the roles.
        sample: The source to make beside the warehouse.
    """
    scripts = {name: Path(__file__).parent / "sql" / f"{name}.sql" for name in (WAREHOUSE, METADATA)}
    if sample:
        scripts[sample.name] = sample.grants
    with psycopg.connect(server.superuser_dsn("postgres"), autocommit=True) as connection:
        existing = {row[0] for row in connection.execute("select datname from pg_database")}
        for name in scripts.keys() - existing:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    for name, script in scripts.items():
        statements = script.read_text(encoding="utf-8")
        with psycopg.connect(server.superuser_dsn(name)) as connection:
            for setting, names in schemas.wanted().items():
                connection.execute("select set_config(%s, %s, true)", (setting, ",".join(names)))
            connection.execute(statements)
    with psycopg.connect(server.superuser_dsn("postgres")) as connection:
        for role in roles_of(sample):
            alter = sql.SQL("alter role {} password {}")
            connection.execute(alter.format(sql.Identifier(role), sql.Literal(passwords[role])))
