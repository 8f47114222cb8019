"""What another role made is not used: it would run that role's code with the rights of the loader, or show it rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from include.errors import TerminalError
from include.load import publish
from include.operate.plan import plan_table
from include.operate.reconcile import reconcile
from include.postgres.sessions import pin
from include.sources import TableSpec
from tests.conftest import Postgres
from tests.include.conftest import Pipeline

Roles = Callable[[str], psycopg.Connection]


@pytest.fixture
def admin(least: Pipeline, postgres: Postgres) -> psycopg.Connection:
    return psycopg.connect(postgres.server.superuser_dsn("warehouse"), autocommit=True)


def crm(pipeline: Pipeline) -> TableSpec:
    return TableSpec(source="crm", table="orders", key=["id"], cursor="updated_at", identifier="orders")


def code(schema: str) -> str:
    """A function of whoever runs this, which would write down that it ran, as whom."""
    return f"""
        create table {schema}.ran (as_role name);
        grant insert, select on {schema}.ran to public;
        create function {schema}.trap() returns trigger language plpgsql as
            'begin insert into {schema}.ran values (current_user); return new; end';
        create function {schema}.note() returns void language sql as
            'insert into {schema}.ran values (current_user)';
        create function {schema}.check(n bigint) returns boolean immutable language plpgsql as
            'begin perform {schema}.note(); return true; end';
    """


def refused(pipeline: Pipeline, spec: TableSpec, message: str) -> None:
    """By the run before anything is read, by the plan, by reconcile; and each names the remedy."""
    with pytest.raises(TerminalError, match=message):
        pipeline.run(spec)
    plan = plan_table(pipeline.source, pipeline.warehouse, spec, pipeline.horizon(), None)
    assert any(message.split(" ")[-1] in problem and "run in the warehouse: " in problem for problem in plan.problems)
    never_loaded = "was not loaded yet"
    with pytest.raises(TerminalError, match=message if spec.source == "shop" else never_loaded):
        reconcile(pipeline.source, pipeline.warehouse, spec)


def test_the_schema_of_the_next_source_is_made_by_no_role_of_the_pipeline(least: Pipeline, roles: Roles) -> None:
    for role in ("dbt_transformer", "raw_loader", "bi_reader", "elt_watcher"):
        with roles(role) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("set default_transaction_read_only = off")
            session.execute("create schema raw_crm")


def test_a_missing_schema_comes_with_the_statement_that_makes_it(least: Pipeline, roles: Roles) -> None:
    with pytest.raises(TerminalError, match="no schema raw_crm, and raw_loader may make none") as raised:
        least.run(crm(least))
    with roles("warehouse_admin") as admin:
        admin.execute(str(raised.value).split("administrator: ")[1].split("; then clear")[0])
    assert least.run(crm(least)).rows_inserted == 1


def test_the_schema_of_another_is_not_loaded_into(least: Pipeline, admin: psycopg.Connection) -> None:
    admin.execute("create schema raw_crm authorization dbt_transformer; set role dbt_transformer")
    admin.execute("grant usage, create on schema raw_crm to raw_loader")
    refused(least, crm(least), "schema raw_crm belongs to dbt_transformer")
    admin.execute("reset role; alter schema raw_crm owner to raw_loader")
    least.run(crm(least))


@pytest.mark.parametrize(
    "made",
    [
        "create table raw_crm.orders (id bigint primary key, amount numeric, updated_at timestamptz, n int, "
        "_loaded_at timestamptz, _run_id text, _deleted_at timestamptz); "
        "create trigger trap before insert on raw_crm.orders for each row execute function raw_crm.trap()",
        "create view raw_crm.orders as select 1::bigint id, 1::numeric amount, now() updated_at, 1 n, "
        "now() _loaded_at, '' _run_id, null::timestamptz _deleted_at where raw_crm.check(1)",
    ],
)
def test_the_table_of_another_is_neither_read_nor_written(
    least: Pipeline, admin: psycopg.Connection, made: str
) -> None:
    admin.execute("create schema raw_crm authorization raw_loader; grant usage, create on schema raw_crm to public")
    admin.execute(f"set role dbt_transformer; {code('raw_crm')}")
    admin.execute(f"{made}; grant all on raw_crm.orders to public")
    refused(least, crm(least), "table raw_crm.orders belongs to dbt_transformer")
    assert least.raw("select * from raw_crm.ran") == []


@pytest.mark.parametrize(
    ("as_role", "attached", "message"),
    [
        (
            "dbt_transformer",
            "create trigger trap before update on raw_shop.orders for each row execute function staging.trap()",
            "table raw_shop.orders has trigger trap",
        ),
        (
            "dbt_transformer",
            "create trigger trap before update on raw_shop.orders for each row "
            "execute function suppress_redundant_updates_trigger()",
            "table raw_shop.orders has trigger trap",
        ),
        (
            "raw_loader",
            "create rule trap as on update to raw_shop.orders do also select staging.check(1)",
            "table raw_shop.orders has rule trap",
        ),
        (
            "raw_loader",
            "alter table raw_shop.orders add constraint trap check (staging.check(id))",
            "trap of table raw_shop.orders belongs to dbt_transformer",
        ),
        (
            "raw_loader",
            "create index on raw_shop.orders (staging.check(id))",
            "an index of table raw_shop.orders belongs to dbt_transformer",
        ),
        (
            "raw_loader",
            "alter table raw_shop.orders add constraint trap exclude using btree ((staging.check(1)) with =)",
            "an index of table raw_shop.orders belongs to dbt_transformer",
        ),
        (
            "raw_loader",
            "alter table raw_shop.orders alter n set default staging.check(1)::int",
            "a default of table raw_shop.orders belongs to dbt_transformer",
        ),
        (
            "raw_loader",
            "create statistics raw_shop.trap on (staging.check(id)) from raw_shop.orders",
            "statistics of table raw_shop.orders belongs to dbt_transformer",
        ),
        (
            "dbt_transformer",
            "create domain staging.trap as int check (staging.check(value)); reset role; "
            "alter table raw_shop.orders add trap staging.trap",
            "a column of table raw_shop.orders belongs to dbt_transformer",
        ),
    ],
)
def test_code_of_another_on_raw_stops_the_load(
    least: Pipeline, admin: psycopg.Connection, as_role: str, attached: str, message: str
) -> None:
    admin.execute("grant trigger on raw_shop.orders to dbt_transformer; grant usage on schema staging to raw_loader")
    admin.execute(f"set role dbt_transformer; {code('staging')}; set role {as_role}; {attached}")
    admin.execute("reset role; truncate staging.ran")
    least.app.execute("update orders set updated_at = now()")
    refused(least, least.spec(), message)
    assert admin.execute("select * from staging.ran").fetchall() == []


def test_a_trigger_that_comes_after_the_look_waits_for_the_load(
    least: Pipeline, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the load's look at raw and its statement, another session may attach nothing."""
    admin.execute("grant trigger on raw_shop.orders to dbt_transformer; set role dbt_transformer")
    admin.execute(code("staging") + "; set lock_timeout = '1ms'")
    hold, refusals = publish._hold_raw, []

    def race(*given: object) -> object:
        held = hold(*given)  # type: ignore[arg-type]
        try:
            admin.execute(
                "create trigger trap before update on raw_shop.orders for each row execute function staging.trap()"
            )
        except psycopg.errors.LockNotAvailable as error:
            refusals.append(error)
        return held

    monkeypatch.setattr(publish, "_hold_raw", race)
    least.app.execute("update orders set updated_at = now()")
    assert least.run(least.spec()).rows_updated == 1
    assert len(refusals) == 1


@pytest.mark.parametrize("extract", [{}, {"mode": "full", "cursor": None}])
def test_a_table_that_an_administrator_restored_is_given_back(
    least: Pipeline, admin: psycopg.Connection, extract: dict[str, Any]
) -> None:
    spec = least.spec(**extract)
    least.run(spec)
    admin.execute("alter table raw_shop.orders owner to postgres")
    with pytest.raises(TerminalError) as raised:
        least.run(spec)
    assert str(raised.value).startswith("shop.orders: permission denied for table orders in the warehouse; run there: ")
    admin.execute(str(raised.value).split("run there: ")[1].split("; then clear")[0])
    least.run(spec)
    least.assert_same("id, n", "orders", "id")


def test_a_superuser_s_trigger_is_no_trap(least: Pipeline, admin: psycopg.Connection) -> None:
    admin.execute(f"create schema watch; {code('watch')}; grant usage on schema watch to public")
    admin.execute("create trigger seen after update on raw_shop.orders for each row execute function watch.trap()")
    least.app.execute("update orders set updated_at = now()")
    assert least.run(least.spec()).rows_updated == 1


def test_a_ledger_of_another_is_not_believed(postgres: Postgres, roles: Roles, pipeline: Pipeline) -> None:
    with psycopg.connect(postgres.server.superuser_dsn("warehouse"), autocommit=True) as admin:
        admin.execute("alter schema _elt owner to dbt_transformer")
        with (
            roles("raw_loader") as loader,
            pytest.raises(TerminalError, match="schema _elt belongs to dbt_transformer"),
        ):
            publish.ledger.ensure(loader, "raw_shop")


def test_a_first_load_has_the_rights_of_raw_not_of_staging(least: Pipeline, roles: Roles, postgres: Postgres) -> None:
    """`pg_stats` shows values to whoever may select from a table, even in a schema that is closed to him."""
    with psycopg.connect(postgres.server.superuser_dsn("warehouse"), autocommit=True) as admin:
        admin.execute(
            "alter default privileges for role raw_loader in schema _elt grant select on tables to elt_watcher"
        )
        admin.execute(
            "alter default privileges for role raw_loader in schema raw_shop grant select on tables to bi_reader"
        )
    least.app.execute("create table people (id bigint primary key, name text, updated_at timestamptz default now())")
    least.app.execute("insert into people select n, 'Ada Secret' from generate_series(1, 100) n")
    staged = least.extract(least.spec("people"))
    least.warehouse.execute(f"analyze _elt.staging_{staged.extraction_id}")
    least.load(least.spec("people"), staged)
    least.warehouse.execute("analyze raw_shop.people")
    values = "select count(*) from pg_stats where schemaname in ('raw_shop', '_elt') and most_common_vals::text ~ 'Ada'"
    for role, seen in (("elt_watcher", 0), ("dbt_transformer", 1), ("bi_reader", 1)):
        with roles(role) as session:
            assert session.execute(values).fetchone() == (seen,), role


def test_the_ledger_is_read_by_whom_the_setup_lets_in_and_no_key_is(least: Pipeline, roles: Roles) -> None:
    for role in ("elt_watcher", "dbt_transformer"):
        with roles(role) as session:
            session.execute("select from _elt.load_ledger, _elt.extraction")
            session.execute("select extraction_id, number, rows_extracted from _elt.extraction_range")
            for column in ("lower_key", "upper_key", "buckets"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    session.execute(f"select {column} from _elt.extraction_range")
    staged = least.extract(least.spec(mode="full"))
    for role in ("elt_watcher", "dbt_transformer"):
        with roles(role) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(f"select from _elt.staging_{staged.extraction_id}")


def test_who_is_let_in_later_reads_the_ledger_after_the_next_task(least: Pipeline, roles: Roles) -> None:
    least.warehouse.execute("revoke all on _elt.extraction from elt_watcher")
    least.run(least.spec())
    with roles("elt_watcher") as session:
        session.execute("select from _elt.extraction")


def test_roles_that_change_with_each_login_act_as_the_one_that_owns(pipeline: Pipeline) -> None:
    """As Vault makes them: each login has a role of its own, and what one has made the next one does not own."""
    owner, logins = "keeper_of_raw", ("login_of_today", "login_of_tomorrow")
    database = conninfo_to_dict(pipeline.warehouse_dsn)["dbname"]
    pipeline.app.execute(f"drop role if exists {owner}, {logins[0]}, {logins[1]}")
    pipeline.app.execute(f"create role {owner}")
    for login in logins:
        pipeline.app.execute(f"create role {login} login password 'drawn' in role {owner}")
    with psycopg.connect(pipeline.warehouse_dsn, autocommit=True) as admin:
        admin.execute(f"grant create on database {database} to {owner}")

    def run_as(login: str) -> int:
        dsn = make_conninfo(pipeline.warehouse_dsn, user=login, password="drawn")
        with psycopg.connect(dsn) as connection:
            pin(connection, read_only=False, connect=lambda: psycopg.connect(dsn))
            return replace(pipeline, warehouse=connection).run(pipeline.spec()).rows_inserted

    try:
        pipeline.insert(1)
        assert run_as(logins[0]) == 1
        pipeline.insert(2)
        act_as = f"one that owns it: alter role {logins[1]} set role"
        with pytest.raises(TerminalError, match=f"schema _elt belongs to {logins[0]}, .*{act_as}"):
            run_as(logins[1])
        with psycopg.connect(pipeline.warehouse_dsn, autocommit=True) as admin:
            admin.execute(f"reassign owned by {logins[0]} to {owner}")
            for login in logins:
                admin.execute(f"alter role {login} set role {owner}")
        assert run_as(logins[1]) == 1
        pipeline.insert(3)
        assert run_as(logins[0]) == 1
    finally:
        with psycopg.connect(pipeline.warehouse_dsn, autocommit=True) as admin:
            for role in (*logins, owner):
                admin.execute(f"drop owned by {role} cascade; drop role {role}")
