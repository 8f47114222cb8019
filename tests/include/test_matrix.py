"""Every role tries everything on every object of both local databases: only what SECURITY.md grants succeeds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import psycopg
import pytest

from include.local.databases import ROLES, provision
from include.local.servers import EmbeddedPostgres
from include.postgres.sessions import pin
from include.state import ledger
from tests.attempts import CATALOG, REFUSED, Attempt, attempts, disagreement, own_schema

OF = {
    "shop": ("shop_app", "shop_reader", "elt_watcher"),
    "warehouse": ("raw_loader", "dbt_transformer", "bi_reader", "elt_watcher", "warehouse_admin"),
}

MADE = {
    "shop_app": """
        create table public.orders (id int generated always as identity, note text);
        create view public.open_orders as select * from orders;
        create sequence public.numbers;
        create function public.total() returns int language sql as 'select 1';
        insert into orders (note) select 'x' from generate_series(1, 100);
        analyze orders;
    """,
    "raw_loader": """
        create table raw_shop.orders (id int, note text, _loaded_at timestamptz);
        insert into raw_shop.orders select n, 'x', now() from generate_series(1, 100) n;
        create table _elt.staging_1 (id int, note text);
        insert into _elt.staging_1 select n, 'x' from generate_series(1, 100) n;
        analyze raw_shop.orders, _elt.staging_1;
    """,
    "dbt_transformer": """
        create view staging.stg_orders as select id, note from raw_shop.orders;
        create view intermediate.int_orders as select * from staging.stg_orders;
        create table snapshots.orders_snapshot as select * from raw_shop.orders;
        create table marts.fct_orders as select * from intermediate.int_orders;
        create view marts.recent_orders as select * from staging.stg_orders;
        create table dbt_test_failures.not_null_orders as select * from raw_shop.orders;
        analyze;
    """,
    "warehouse_admin": """
        create type public.mood as enum ('sad');
        create domain public.positive as int check (value > 0);
    """,
}
"""One of each kind, made by whom it belongs to."""


@dataclass(frozen=True)
class Database:
    """A database of the server, and everything to be tried in it."""

    server: EmbeddedPostgres
    name: str
    catalog: list[dict[str, Any]]
    attempts: list[Attempt]

    @contextmanager
    def connect(self, role: str | None) -> Iterator[psycopg.Connection]:
        dsn = self.server.dsn(role, "secret", self.name) if role else self.server.superuser_dsn(self.name)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("set default_transaction_read_only = off; set lock_timeout = '5s'")
            connection.execute("set client_min_messages = error")
            yield connection

    def state_of(self, connection: psycopg.Connection, attempt: Attempt, own: str) -> str | None:
        """The SQLSTATE that an attempt ends in; None: it succeeded."""
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(attempt.sql(own))
        except psycopg.Error as error:
            return error.sqlstate or "?"
        return None

    def done(self, roles: tuple[str, ...]) -> list[tuple[str, Attempt]]:
        """What each role succeeded in."""
        found = []
        for role in roles:
            own = own_schema(self.catalog, role)
            with self.connect(role) as connection:
                for attempt in self.attempts:
                    state = self.state_of(connection, attempt, own)
                    if state is None:
                        found.append((role, attempt))
                    else:
                        assert state in REFUSED, f"{role}: {attempt.sql(own)}: {state}"
        return found


def look(server: EmbeddedPostgres, name: str) -> Database:
    """What can be tried in a database: what a superuser succeeds with."""
    database = Database(server, name, [], [])
    with database.connect(None) as connection:
        [catalog] = connection.execute(CATALOG).fetchone() or []
        entries = catalog if isinstance(catalog, list) else json.loads(catalog)
        own = own_schema(entries, "postgres")
        tried = attempts(entries, name, OF[name])
        valid = [each for each in tried if database.state_of(connection, each, own) is None]
    return Database(server, name, entries, valid)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(folder / "matrix", settings={"fsync": "off"}) as server:
        provision(server, dict.fromkeys(ROLES, "secret"))
        for role, statements in MADE.items():
            name = "shop" if role == "shop_app" else "warehouse"
            with psycopg.connect(server.dsn(role, "secret", name), autocommit=True) as connection:
                if role == "raw_loader":
                    ledger.ensure(pin(connection, read_only=False), "raw_shop")
                connection.execute(statements)
        yield server
        server.remove()


@pytest.fixture(scope="module", params=OF)
def database(server: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Database]:
    # A superuser at work, whose statements others must not see.
    with psycopg.connect(server.superuser_dsn(request.param)):
        yield look(server, request.param)


def test_a_role_can_do_what_security_md_grants_and_nothing_else(database: Database) -> None:
    assert len(database.attempts) > 100
    roles = OF[database.name]
    problems = disagreement(database.done(roles), database.attempts, roles)
    assert not problems, "\n".join(problems[:40])


MUTANTS = [
    ("dbt_transformer", "database *", "grant create on database warehouse to dbt_transformer"),
    (
        "bi_reader",
        "* raw_shop*",
        "grant select on raw_shop.orders to bi_reader; grant usage on schema raw_shop to bi_reader",
    ),
    ("elt_watcher", "table raw_shop.*", "grant select on raw_shop.orders to elt_watcher"),
    ("dbt_transformer", "table _elt.*", "grant select on _elt.staging_1 to dbt_transformer"),
    ("elt_watcher", "table _elt.*", "grant select on _elt.extraction_range to elt_watcher"),
    ("dbt_transformer", "table raw_shop.*", "grant trigger on raw_shop.orders to dbt_transformer"),
    ("dbt_transformer", "table raw_shop.*", "grant update on raw_shop.orders to dbt_transformer"),
    ("dbt_transformer", "table raw_shop.*", "grant truncate on raw_shop.orders to dbt_transformer"),
    ("dbt_transformer", "table raw_shop.*", "revoke select on raw_shop.orders from dbt_transformer"),
    ("raw_loader", "schema public", "grant create on schema public to raw_loader"),
    ("raw_loader", "* marts*", "grant dbt_transformer to raw_loader"),
    ("raw_loader", "function *", "revoke execute on function _elt.lift_views(regclass, text[]) from raw_loader"),
    ("elt_watcher", "function *", "grant execute on function _elt.put_views_back() to public"),
    ("bi_reader", "database *", "grant temporary on database warehouse to bi_reader"),
    ("bi_reader", "database *", "grant execute on function lo_create(oid) to public"),
    ("bi_reader", "* marts*", "alter table marts.fct_orders owner to bi_reader"),
    ("bi_reader", "* marts*", "revoke usage on schema marts from bi_reader"),
    ("dbt_transformer", "server", "grant pg_read_server_files to dbt_transformer"),
    ("bi_reader", "server", "grant pg_read_all_stats to bi_reader"),
]
"""Of a role, on some objects: rights that somebody might add or take away by mistake."""


@pytest.fixture(scope="module")
def warehouse(server: EmbeddedPostgres) -> Database:
    return look(server, "warehouse")


@pytest.mark.parametrize(("role", "what", "mutant"), MUTANTS)
def test_a_right_that_is_added_or_taken_away_is_found(warehouse: Database, role: str, what: str, mutant: str) -> None:
    """In one transaction of a superuser, who acts as the role; but whom he may act as is his own right."""
    meant = [each for each in warehouse.attempts if fnmatchcase(each.what, what)]
    tried = [each for each in meant if "session authorization" not in each.sql("")]
    own = own_schema(warehouse.catalog, role)

    def problems(superuser: psycopg.Connection) -> list[str]:
        done = []
        for attempt in tried:
            with superuser.transaction(force_rollback=True):
                superuser.execute(f"set local session authorization {role}")
                if warehouse.state_of(superuser, attempt, own) is None:
                    done.append((role, attempt))
        return disagreement(done, tried, (role,))

    with psycopg.connect(warehouse.server.superuser_dsn("warehouse")), warehouse.connect(None) as superuser:
        with superuser.transaction(force_rollback=True):
            assert problems(superuser) == []
            superuser.execute(mutant)
            assert problems(superuser)
