"""The local databases: what each role may do and no more, and a look at a source of the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from include.local.databases import ROLES, provision, require_tables
from include.local.errors import LocalError
from include.local.servers import EmbeddedPostgres
from tests.conftest import Postgres
from tests.projects import PROJECT, project


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[EmbeddedPostgres]:
    made = EmbeddedPostgres(folder / "roles", settings={"fsync": "off"})
    yield made.start()
    made.remove()


@pytest.fixture(scope="module")
def provisioned(server: EmbeddedPostgres) -> EmbeddedPostgres:
    for _ in range(2):  # rerunnable
        provision(server, dict.fromkeys(ROLES, "secret"))
    with psycopg.connect(server.dsn("shop_app", "secret", "shop")) as connection:
        connection.execute("create table if not exists things (id int primary key)")
    with psycopg.connect(server.dsn("raw_loader", "secret", "warehouse")) as connection:
        connection.execute("create table if not exists raw_shop.things (id int)")
        connection.execute("create table if not exists _elt.things (id int)")
    with psycopg.connect(server.dsn("dbt_transformer", "secret", "warehouse")) as connection:
        connection.execute("create table if not exists marts.things (id int)")
        connection.execute("create table if not exists dbt_test_failures.things (id int)")
    return server


def test_the_schemas_that_the_project_makes_something_in_are_made(
    provisioned: EmbeddedPostgres, tmp_path: Path
) -> None:
    """However it names them, and none for what is not there."""
    loaded = "{name: crm, schema: raw_crm, tables: [{name: things, config: {meta: {extract: {mode: full}}}}]}"
    files = {
        "dbt_project.yml": PROJECT[:-1] + ", models: {elt: {finance: {+schema: finance}}}}",
        "models/sources.yml": f"sources: [{loaded}, {{name: theirs, schema: stripe, tables: [{{name: charges}}]}}]",
        "models/finance/mart.sql": "select 1 as id",
        "models/plain.sql": "{{ config(schema='x' ~ 'y') }} select 1 as id",
        "models/off.sql": "{{ config(schema='off', enabled=false) }} select 1 as id",
        "models/plain.yml": "models: [{name: plain, columns: [{name: id, data_tests: [unique]}]}]",
        "seeds/numbers.csv": "id\n1\n",
    }
    with project(tmp_path, files):
        provision(provisioned, dict.fromkeys(ROLES, "secret"))
    with psycopg.connect(provisioned.superuser_dsn("warehouse")) as connection:
        found = "select nspname, nspowner::regrole::text from pg_namespace where nspname ~ 'analytics|raw_crm|stripe'"
        assert connection.execute(f"{found} order by 1").fetchall() == [
            ("analytics", "dbt_transformer"),
            ("analytics_finance", "dbt_transformer"),
            ("analytics_xy", "dbt_transformer"),
            ("raw_crm", "raw_loader"),
        ]
    with psycopg.connect(provisioned.dsn("raw_loader", "secret", "warehouse")) as connection:
        connection.execute("create table if not exists raw_crm.things (id int)")
    with psycopg.connect(provisioned.dsn("dbt_transformer", "secret", "warehouse")) as connection:
        connection.execute("select * from raw_crm.things")


def test_a_project_that_cannot_be_parsed_is_no_reason_to_start_nothing(
    provisioned: EmbeddedPostgres, tmp_path: Path
) -> None:
    with project(tmp_path, {"models/broken.yml": "sources: [{"}):
        provision(provisioned, dict.fromkeys(ROLES, "secret"))


def test_superusers_come_through_the_socket_alone(server: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="rejects connection"):
        psycopg.connect(server.dsn("postgres", "", "postgres"))


def test_a_password_is_needed(provisioned: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(provisioned.dsn("shop_reader", "wrong", "shop"))


@pytest.mark.parametrize(
    ("role", "database", "statement"),
    [
        ("shop_reader", "shop", "insert into things values (1)"),
        ("shop_reader", "shop", "create table mine (id int)"),
        ("shop_reader", "shop", "create temporary table mine (id int)"),
        ("raw_loader", "warehouse", "select * from marts.things"),
        ("raw_loader", "warehouse", "create table marts.mine (id int)"),
        ("dbt_transformer", "warehouse", "insert into raw_shop.things values (1)"),
        ("dbt_transformer", "warehouse", "drop table raw_shop.things"),
        ("bi_reader", "warehouse", "select * from raw_shop.things"),
        ("bi_reader", "warehouse", "insert into marts.things values (1)"),
        ("bi_reader", "warehouse", "create schema mine"),
        ("elt_watcher", "shop", "select * from public.things"),
        ("elt_watcher", "warehouse", "select * from raw_shop.things"),
        ("elt_watcher", "warehouse", "select * from marts.things"),
        ("elt_watcher", "warehouse", "delete from _elt.things"),
        ("elt_watcher", "warehouse", "select * from _elt.things"),
        ("raw_loader", "warehouse", "create schema raw_mine"),
        ("dbt_transformer", "warehouse", "create schema raw_mine"),
        ("dbt_transformer", "warehouse", "select * from _elt.things"),
    ],
)
def test_what_a_role_must_not_do_fails(provisioned: EmbeddedPostgres, role: str, database: str, statement: str) -> None:
    with psycopg.connect(provisioned.dsn(role, "secret", database)) as connection:
        connection.read_only = False
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(statement)


@pytest.mark.parametrize(
    ("role", "database", "statement"),
    [
        ("shop_reader", "shop", "select * from things"),
        ("dbt_transformer", "warehouse", "select * from raw_shop.things"),
        ("bi_reader", "warehouse", "select * from marts.things"),
        ("warehouse_admin", "warehouse", "update raw_shop.things set id = 1"),
        ("elt_watcher", "shop", "do $$ begin assert pg_has_role('pg_read_all_stats', 'usage'); end $$"),
        ("elt_watcher", "warehouse", "select * from dbt_test_failures.things"),
    ],
)
def test_what_a_role_needs_works(provisioned: EmbeddedPostgres, role: str, database: str, statement: str) -> None:
    with psycopg.connect(provisioned.dsn(role, "secret", database)) as connection:
        connection.execute(statement)


@pytest.mark.parametrize("database", ["shop", "warehouse"])
def test_nobody_enters_the_other_database(provisioned: EmbeddedPostgres, database: str) -> None:
    strangers = {"shop": ("raw_loader", "dbt_transformer", "bi_reader"), "warehouse": ("shop_reader", "shop_app")}
    for role in strangers[database]:
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(provisioned.dsn(role, "secret", database))


def test_a_missing_table_is_one_sentence(postgres: Postgres) -> None:
    with psycopg.connect(postgres.database()) as connection:
        connection.execute("create table customers (); create table products (); create table orders ()")
        connection.commit()
        uri = postgres.server.superuser_dsn(connection.info.dbname)
        with pytest.raises(LocalError, match=r"of AIRFLOW_CONN_SHOP has no table public\.order_items: .* unset"):
            require_tables(uri, "shop")
        connection.execute("create view order_items as select")
        connection.commit()
        require_tables(uri, "shop")
