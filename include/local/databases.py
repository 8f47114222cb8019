"""The two databases of the local server and their roles, each with no more than it needs."""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg import sql

from include.local.servers import EmbeddedPostgres

SOURCE, WAREHOUSE = "shop", "warehouse"
ROLES = ("shop_app", "shop_reader", "raw_loader", "dbt_transformer", "bi_reader", "warehouse_admin")


def provision(server: EmbeddedPostgres, passwords: dict[str, str]) -> None:
    """Create databases, roles and grants where they are missing, and set the roles' passwords.

    Args:
        server: A running server.
        passwords: One for each of `ROLES`.
    """
    with psycopg.connect(server.superuser_dsn("postgres"), autocommit=True) as connection:
        existing = {row[0] for row in connection.execute("select datname from pg_database")}
        for name in {SOURCE, WAREHOUSE} - existing:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    for name, script in ((SOURCE, "source"), (WAREHOUSE, "warehouse")):
        statements = (Path(__file__).parent / "sql" / f"{script}.sql").read_text(encoding="utf-8")
        with psycopg.connect(server.superuser_dsn(name)) as connection:
            connection.execute(statements)  # type: ignore[arg-type]
    with psycopg.connect(server.superuser_dsn("postgres")) as connection:
        for role in ROLES:
            alter = sql.SQL("alter role {} password {}")
            connection.execute(alter.format(sql.Identifier(role), sql.Literal(passwords[role])))
