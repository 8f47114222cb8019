"""`make plan` says what the next run would do, what would stop it, and changes nothing."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from include.operate.plan import Plan, plan_table
from include.postgres.sessions import pin
from include.sources import TableSpec
from include.state import ledger
from tests.include.conftest import Pipeline


def plan(pipeline: Pipeline, spec: TableSpec, variable: str | None = None) -> Plan:
    """The plan, made by sessions that refuse to write."""
    with psycopg.connect(pipeline.source_dsn) as source, psycopg.connect(pipeline.warehouse_dsn) as warehouse:
        pin(source, read_only=True)
        pin(warehouse, read_only=True)
        return plan_table(source, warehouse, spec, pipeline.horizon(), variable)


def said(made: Plan, what: str) -> list[str]:
    return [text for kind, text in made.steps if kind == what]


def relations(pipeline: Pipeline) -> list[tuple[Any, ...]]:
    return pipeline.raw(
        "select relnamespace::regnamespace::text, relname from pg_class where relnamespace >= 16384 order by 1, 2"
    )


def test_before_the_first_run_nothing_has_to_exist_and_nothing_is_made(pipeline: Pipeline) -> None:
    before = relations(pipeline)
    made = plan(pipeline, pipeline.spec())
    assert made.problems == []
    assert said(made, "window")[0].startswith("first: every row; then the watermark is 20")
    assert said(made, "schema") == ['create table "raw_shop"."orders" with 3 columns']
    assert relations(pipeline) == before
    assert pipeline.raw("select to_regnamespace('_elt'), to_regnamespace('raw_shop')") == [(None, None)]


def test_the_window_and_the_planners_estimate(pipeline: Pipeline) -> None:
    pipeline.app.execute(
        "insert into orders select n, n, '2026-01-01'::timestamptz + n * interval '1 hour' "
        "from generate_series(1, 5000) n; analyze orders"
    )
    pipeline.run(pipeline.spec())
    ledger.mark_published(pipeline.warehouse, pipeline.spec())
    made = plan(pipeline, pipeline.spec(deletes="soft"), "2026-06-01T00:00:00+00:00")
    (window,) = said(made, "window")
    assert window.startswith(
        "incremental: rows with updated_at from 2026-05-31T23:59:00.000000+00:00 on; keys compared"
    )
    (rows,) = said(made, "rows")
    assert 1_000 < int(rows.removeprefix("about ").replace(",", "")) < 1_700  # exactly 1,377


def test_drift_is_shown_as_ddl_or_stops(pipeline: Pipeline) -> None:
    pipeline.insert(1)
    pipeline.run(pipeline.spec())
    pipeline.app.execute('alter table orders add column "Note" varchar(9)')
    made = plan(pipeline, pipeline.spec())
    add_column = 'alter table "raw_shop"."orders" add column "Note" character varying'
    assert said(made, "schema") == [add_column, "Note is new: older rows hold NULL"]
    whole = plan(pipeline, pipeline.spec(mode="full"))
    assert said(whole, "schema") == [add_column], "where every row is read none is older"
    pipeline.app.execute("alter table orders add tag text default ''")
    assert said(plan(pipeline, pipeline.spec()), "schema")[-1] == "tag is new: older rows hold ''"
    pipeline.app.execute("alter table orders alter amount type text")
    made = plan(pipeline, pipeline.spec())
    assert len(made.problems) == 1 and 'alter column "amount" type text' in made.problems[0]
    assert "  STOPS   shop.orders: column 'amount'" in str(made)


def test_a_missing_index_on_the_cursor_comes_with_its_statement(pipeline: Pipeline) -> None:
    made = plan(pipeline, pipeline.spec())
    (index,) = said(made, "index")
    pipeline.app.execute(index.split("run on the source: ")[1])
    assert said(plan(pipeline, pipeline.spec()), "index") == []


@pytest.mark.parametrize("index", ["(amount, updated_at)", "(updated_at) where amount > 1"])
def test_an_index_that_cannot_find_the_window_does_not_count(pipeline: Pipeline, index: str) -> None:
    pipeline.app.execute(f"create index on orders {index}")
    assert len(said(plan(pipeline, pipeline.spec()), "index")) == 1


def test_the_statement_for_a_partitioned_table_works_there(pipeline: Pipeline) -> None:
    pipeline.app.execute(
        "create table events (id int, updated_at timestamptz not null, primary key (id)) partition by hash (id);"
        "create table events_0 partition of events for values with (modulus 1, remainder 0)"
    )
    spec = pipeline.spec("events")
    pipeline.app.execute(said(plan(pipeline, spec), "index")[0].split("run on the source: ")[1])
    assert said(plan(pipeline, spec), "index") == []


def test_a_view_is_not_asked_for_an_index(pipeline: Pipeline) -> None:
    pipeline.app.execute("create view recent as select * from orders")
    assert said(plan(pipeline, pipeline.spec("recent")), "index") == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("drop table orders", "does not exist in database"),
        ("alter table orders rename updated_at to changed", "column 'updated_at' does not exist"),
        ("create type mood as enum ('x'); alter table orders add m public.mood", "the warehouse has no type"),
        ("drop table orders; create materialized view orders as select now() updated_at, 1 id", "add `deletes: soft`"),
    ],
)
def test_what_would_stop_the_run_is_a_problem(pipeline: Pipeline, change: str, problem: str) -> None:
    pipeline.app.execute(change)
    made = plan(pipeline, pipeline.spec())
    assert len(made.problems) == 1 and problem in made.problems[0]


def test_a_broken_variable_stops_the_run(pipeline: Pipeline) -> None:
    pipeline.insert(1)
    pipeline.run(pipeline.spec())
    made = plan(pipeline, pipeline.spec(), "soon")
    assert len(made.problems) == 1 and "airflow variables delete watermark__shop__orders" in made.problems[0]


def test_row_level_security_stops_the_run(pipeline: Pipeline) -> None:
    pipeline.app.execute("drop role if exists guarded; create role guarded; grant select on orders to guarded")
    pipeline.app.execute("alter table orders enable row level security")
    with psycopg.connect(pipeline.source_dsn) as source:
        pin(source, read_only=True).execute("set role guarded")
        made = plan_table(source, pipeline.warehouse, pipeline.spec(), pipeline.horizon(), None)
    assert len(made.problems) == 1 and "row-level security policy" in made.problems[0]


def test_missing_privileges_of_the_loader_come_with_the_grant(pipeline: Pipeline) -> None:
    with psycopg.connect(pipeline.warehouse_dsn, autocommit=True) as admin:
        admin.execute("drop role if exists poor_loader")
        admin.execute("create role poor_loader")
        admin.execute("set session authorization poor_loader")
        made = plan_table(pipeline.source, admin, pipeline.spec(), pipeline.horizon(), None)
    assert [each.split("warehouse: ")[1] for each in made.problems[:2]] == [
        'create schema "_elt" authorization "postgres"',
        'create schema "raw_shop" authorization "postgres"',
    ]


def test_a_gap_is_shown_with_the_rewind_that_closes_it(pipeline: Pipeline) -> None:
    spec = pipeline.spec(overlap="0.001 seconds")
    pipeline.insert(1)
    for number in range(3):
        pipeline.run(spec, run_id=f"r{number}")
    pipeline.warehouse.execute("delete from _elt.load_ledger where run_id = 'r1'")
    (gap,) = said(plan(pipeline, spec), "gap")
    assert "no load in the ledger read updated_at from 20" in gap and "make rewind TABLE=shop.orders TO=20" in gap


def test_a_rewritten_column_is_said_to_cost_a_whole_read(pipeline: Pipeline) -> None:
    pipeline.insert(1)
    pipeline.run(pipeline.spec())
    pipeline.app.execute("alter table orders alter amount type numeric(12,4)")
    made = plan(pipeline, pipeline.spec())
    assert said(made, "schema") == ["column 'amount' was rewritten: every row is read"]
    assert said(made, "window")[0].startswith("full: every row; then the watermark is 20")
