"""Drift: every change of a source table is followed, or stops that table with the statement to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from include.errors import DriftError, TerminalError, TransientError
from include.operate.plan import plan_table
from include.postgres.buckets import WHOLE as WHOLE_BUCKET
from include.postgres.catalog import columns_of
from include.schema.drift import examine
from include.state import ledger
from include.state.lineage import Loss
from include.state.messages import Window
from tests.conftest import Postgres
from tests.include.conftest import Pipeline

WHOLE = Window("full", None, None, None)
BACKFILL = Window("window", datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC), None)


@pytest.fixture
def loaded(pipeline: Pipeline) -> Pipeline:
    """Two old rows, loaded: an incremental run does not read them again."""
    pipeline.app.execute(
        "alter table orders add n integer, add note varchar(10);"
        "insert into orders select i, i + 0.50, now() - interval '1 day', i, 'note ' || i from generate_series(1, 2) i"
    )
    pipeline.run(pipeline.spec())
    return pipeline


def change(pipeline: Pipeline, statements: str) -> None:
    pipeline.app.execute(f"set search_path = public; {statements}")


def raw_type(pipeline: Pipeline, column: str) -> str:
    columns = columns_of(pipeline.warehouse, "raw_shop", "orders")
    return next(each.declared_type for each in columns if each.name == column)


ADDED = {
    "color text default 'red'": "'blue'",
    "many int[] default '{1,NULL,2}'": "'{3}'",
    "boxes box[] default '{(2,2),(1,1);(4,4),(3,3)}'": "null",
    "at timestamptz not null default '2026-01-01 12:00+02'": "now()",
    "since interval default '1 mon 2 days -3 hours'": "'1 s'",
    "bytes bytea default '\\x00ff27'": "''",
    "quoted text default E'it''s \\\\ {\"a\", 1} '": "''",
    "ratio float8 default 0.1": "'NaN'",
    "note2 varchar(4) default ''": "null",
    "doc jsonb default '{\"a\": [1]}'": "'1'",
    "plain int": "4",
}
"""A column as it is added, and another value for one row. Older rows hold what it is added with."""


@pytest.mark.parametrize("column, other", ADDED.items(), ids=lambda text: text.split()[0])
@pytest.mark.parametrize("mode", ["incremental", "append"])
def test_older_rows_get_what_a_column_is_added_with(loaded: Pipeline, column: str, other: str, mode: str) -> None:
    name, spec = column.split()[0], loaded.spec(mode=mode)
    loaded.run(spec)
    change(loaded, f"alter table orders add {column}; alter table orders alter {name} drop default")
    change(loaded, f"insert into orders (id, amount, updated_at, {name}) values (3, 3, now(), {other})")
    result = loaded.run(spec)
    assert result.rows_extracted < 3, "nothing is read for it"
    loaded.assert_same(f"id, amount, {name}", "orders", "id")


def test_a_backfill_may_be_the_first_to_bring_a_column(loaded: Pipeline) -> None:
    change(loaded, "alter table orders add color text default 'red'")
    loaded.run(loaded.spec(), window=replace(BACKFILL, upper=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=1)))
    loaded.assert_same("id, amount, color", "orders", "id")


def test_what_is_hashed_has_no_constant(loaded: Pipeline) -> None:
    change(loaded, "alter table orders add email text default 'nobody@example.com'")
    spec = loaded.spec(columns={"email": "unsalted_hash"})
    assert loaded.run(spec).mode == "full"
    assert loaded.raw("select count(distinct email), min(length(email)) from raw_shop.orders") == [(1, 64)]


def test_parts_of_a_table_that_got_a_column_with_different_values_are_read(loaded: Pipeline) -> None:
    change(loaded, "create table kids () inherits (orders); insert into kids values (3, 3, now() - interval '1 day')")
    loaded.run(loaded.spec(), window=WHOLE)
    change(loaded, "alter table kids add color text default 'red'; alter table orders add color text default 'blue'")
    assert loaded.run(loaded.spec()).mode == "full"
    loaded.assert_same("id, amount, color", "orders", "id")


@pytest.mark.parametrize(
    "extract",
    [
        {},
        {"mode": "full"},
        {"mode": "full", "deletes": "soft"},
        {"mode": "full", "key": [], "cursor": None},
        {"deletes": "soft"},
        {"mode": "append"},
    ],
    ids=str,
)
def test_raw_keeps_the_last_values_of_a_dropped_column(pipeline: Pipeline, extract: dict[str, Any]) -> None:
    change(
        pipeline, "alter table orders add note text; insert into orders values (1, 1, now(), 'a'), (2, 2, now(), 'b')"
    )
    spec = pipeline.spec(**extract)
    pipeline.run(spec)
    change(pipeline, "alter table orders drop note; insert into orders values (3, 3)")
    if spec.key and spec.mode != "append":
        change(pipeline, "update orders set amount = 9, updated_at = now() where id = 2")
    for window in (None, WHOLE):
        pipeline.run(spec, window=window)
        assert pipeline.raw("select id, note from raw_shop.orders order by id") == [(1, "a"), (2, "b"), (3, None)]
        pipeline.assert_equal()


def test_a_row_that_is_marked_as_deleted_keeps_what_it_had_of_a_dropped_column(loaded: Pipeline) -> None:
    loaded.run(loaded.spec(deletes="soft"))
    change(loaded, "alter table orders drop note; delete from orders where id = 1")
    loaded.run(loaded.spec(deletes="soft"))
    change(loaded, "insert into orders values (1, 1)")
    loaded.run(loaded.spec(deletes="soft"))
    assert loaded.raw("select id, note from raw_shop.orders order by id") == [(1, "note 1"), (2, "note 2")]


@pytest.mark.parametrize("mode", ["incremental", "append"])
def test_a_column_that_a_person_dropped_from_raw_does_not_come_back_empty(loaded: Pipeline, mode: str) -> None:
    spec = loaded.spec(mode=mode)
    loaded.run(spec)
    loaded.warehouse.execute("alter table raw_shop.orders drop note")
    for window in (BACKFILL, Window("repair", None, None, None, WHOLE_BUCKET)):
        message = (
            r"column 'note' was dropped from raw, .* read them all first: airflow dags trigger elt_pipeline --conf"
        )
        with pytest.raises(DriftError, match=message):
            loaded.extract(spec, window=window)
    assert loaded.run(spec).mode == "full"
    loaded.assert_same("id, amount, n, note", "orders", "id")
    assert loaded.run(spec).mode == "incremental"


def test_a_column_dropped_and_added_again_is_read_whole(loaded: Pipeline) -> None:
    change(loaded, "alter table orders drop note; alter table orders add note varchar(10) default 'fresh'")
    assert loaded.run(loaded.spec()).mode == "full"
    loaded.assert_same("id, amount, n, note", "orders", "id")
    assert loaded.run(loaded.spec()).mode == "incremental"


def test_a_column_of_an_old_name_that_raw_has_kept_is_read_whole(loaded: Pipeline) -> None:
    change(loaded, "alter table orders drop note")
    loaded.run(loaded.spec())
    change(loaded, "alter table orders add note varchar(10) default 'fresh'")
    assert loaded.run(loaded.spec()).mode == "full"
    loaded.assert_same("id, amount, n, note", "orders", "id")
    assert loaded.run(loaded.spec()).mode == "incremental"


@pytest.mark.parametrize("columns", [{}, {"mood": "text"}])
def test_an_enum_in_the_place_of_another_is_read_whole(pipeline: Pipeline, columns: dict[str, str]) -> None:
    """How a label is taken out: a new type, its values by `using`, the old name."""
    for connection in (pipeline.app, pipeline.warehouse):
        connection.execute("create type public.mood as enum ('sad', 'happy', 'glad')")
    change(pipeline, "alter table orders add mood mood; insert into orders values (1, 1, '2026-01-01', 'glad')")
    spec = pipeline.spec(columns=columns)
    pipeline.run(spec)
    change(
        pipeline,
        "create type mood2 as enum ('sad', 'happy'); alter table orders alter mood type mood2 using 'happy'::mood2;"
        "drop type mood; alter type mood2 rename to mood",
    )
    assert pipeline.run(spec).mode == "full"
    pipeline.assert_equal("id, mood::text")
    assert pipeline.run(spec).mode == "incremental"


@pytest.mark.parametrize(
    ("create", "value", "alter"),
    [
        ("create type t as enum ('a', 'b')", "a", "alter type t rename value 'a' to 'c'"),
        ("create type t as (x int)", "(1)", "alter type t add attribute y int"),
    ],
)
@pytest.mark.parametrize("treatment", ["text", "hash"])
def test_a_type_that_is_read_as_text_is_followed(
    pipeline: Pipeline, create: str, value: str, alter: str, treatment: str
) -> None:
    change(pipeline, f"{create}; alter table orders add v t; insert into orders values (1, 1, '2026-01-01', '{value}')")
    spec = pipeline.spec(columns={"v": treatment})
    pipeline.run(spec)
    before = pipeline.raw("select v from raw_shop.orders")
    change(pipeline, alter)
    assert pipeline.run(spec).mode == "full"
    assert pipeline.raw("select v from raw_shop.orders") != before


def test_a_new_label_alone_costs_no_whole_read(pipeline: Pipeline) -> None:
    change(pipeline, "create type mood as enum ('sad'); alter table orders add mood mood")
    pipeline.insert(1)
    spec = pipeline.spec(columns={"mood": "text"})
    pipeline.run(spec)
    change(pipeline, "alter type mood add value 'happy'")
    assert pipeline.run(spec).mode == "incremental"


def test_a_composite_of_other_attributes_stops(pipeline: Pipeline) -> None:
    """Its values travel by position: one came to stand under another's name."""
    for connection in (pipeline.app, pipeline.warehouse):
        connection.execute("create type public.pair as (a int, b int)")
    change(pipeline, "alter table orders add p pair; insert into orders values (1, 1, now(), (1, 2))")
    pipeline.run(pipeline.spec())
    change(pipeline, "alter type pair drop attribute a; alter type pair add attribute c int")
    assert "change it there by `alter type`" in stopped(pipeline, "type public.pair has other attributes")


@pytest.mark.parametrize("kind", ["stored", "virtual"])
def test_a_generated_column_of_another_expression_is_read_whole(pipeline: Pipeline, kind: str) -> None:
    change(pipeline, f"alter table orders add gross numeric generated always as (amount * 2) {kind}")
    change(pipeline, "insert into orders (id, amount, updated_at) values (1, 1, '2026-01-01')")
    pipeline.run(pipeline.spec())
    change(pipeline, "alter table orders alter gross set expression as (amount * 3)")
    assert pipeline.run(pipeline.spec()).mode == "full"
    pipeline.assert_equal("id, gross")


@pytest.mark.parametrize(
    ("create", "value", "alter"),
    [
        (
            "create type t as enum ('sad', 'happy')",
            "sad",
            "alter type t rename value 'sad' to 'x'; alter type t rename value 'happy' to 'sad';"
            "alter type t rename value 'x' to 'happy'",
        ),
        (
            "create type mood as enum ('sad', 'happy'); create domain t as mood",
            "sad",
            "alter type mood rename value 'sad' to 'x'; alter type mood rename value 'happy' to 'sad';"
            "alter type mood rename value 'x' to 'happy'",
        ),
        (
            "create type mood as enum ('sad', 'happy'); create type t as (n int, moods mood[])",
            '(1,"{sad}")',
            "alter type mood rename value 'sad' to 'x'; alter type mood rename value 'happy' to 'sad';"
            "alter type mood rename value 'x' to 'happy'",
        ),
        ("create type t as (x int, y int)", "(1,2)", "alter type t drop attribute y; alter type t add attribute y int"),
        (
            "create type part as (y int); create type t as (x int, p part)",
            '(1,"(2)")',
            "alter type part drop attribute y; alter type part add attribute y int",
        ),
    ],
    ids=["enum", "domain", "composite", "attribute", "attribute of an attribute"],
)
@pytest.mark.parametrize("treatment", [{"v": "text"}, {}])
def test_a_type_whose_values_read_otherwise_under_the_same_names_is_read_whole(
    pipeline: Pipeline, create: str, value: str, alter: str, treatment: dict[str, str]
) -> None:
    """Labels renamed crosswise: each is still there."""
    pipeline.warehouse.execute("set search_path = public")
    pipeline.warehouse.execute(create)
    pipeline.warehouse.execute("set search_path = pg_catalog")
    change(pipeline, f"{create}; alter table orders add v t; insert into orders values (1, 1, '2026-01-01', '{value}')")
    spec = pipeline.spec(columns=treatment)
    pipeline.run(spec)
    before = pipeline.raw("select v::text from raw_shop.orders")
    change(pipeline, alter)
    assert pipeline.run(spec).mode == "full"
    pipeline.assert_equal("id, v::text")
    assert pipeline.raw("select v::text from raw_shop.orders") != before
    assert pipeline.run(spec).mode == "incremental"


def test_a_function_that_is_replaced_and_the_same_expression_set_again(pipeline: Pipeline) -> None:
    gross = "create or replace function gross(n numeric) returns numeric immutable language sql as 'select n * {}'"
    change(pipeline, gross.format(2))
    change(pipeline, "alter table orders add gross numeric generated always as (gross(amount)) stored")
    change(pipeline, "insert into orders (id, amount, updated_at) values (1, 1, '2026-01-01')")
    spec = pipeline.spec()
    pipeline.run(spec)
    assert pipeline.run(spec).mode == "incremental"
    change(pipeline, gross.format(3))
    assert pipeline.run(spec).mode == "full"
    change(pipeline, "alter table orders alter gross set expression as (gross(amount))")
    assert pipeline.run(spec).mode == "full"
    pipeline.assert_equal("id, gross")
    assert pipeline.raw("select gross from raw_shop.orders") == [(3,)]
    assert pipeline.run(spec).mode == "incremental"


PARTED = (
    "create table t (like orders including all) partition by hash (id);"
    "create table u partition of t for values with (modulus 1, remainder 0)"
)


@pytest.mark.parametrize("table", ["orders", "t"])
def test_a_column_whose_type_is_set_to_what_it_is_with_other_values_is_read_whole(
    pipeline: Pipeline, table: str
) -> None:
    if table == "t":
        change(pipeline, PARTED)
    change(pipeline, f"insert into {table} values (1, 1, '2026-01-01')")
    spec = pipeline.spec(table)
    pipeline.run(spec)
    change(pipeline, f"alter table {table} alter amount type numeric using amount * 100")
    assert pipeline.run(spec).mode == "full"
    pipeline.assert_equal(table=table)
    assert pipeline.run(spec).mode == "incremental"


@pytest.mark.parametrize(
    "harmless",
    [
        "vacuum full orders",
        "alter table orders alter amount set default 7, alter amount set not null; analyze orders",
        "alter table orders add column later int; create index on orders (amount); grant select on orders to public",
        "alter table orders rename amount to sum; alter table orders rename sum to amount",
    ],
)
def test_what_changes_no_value_costs_no_whole_read(pipeline: Pipeline, harmless: str) -> None:
    pipeline.insert(1, at="'2026-01-01'")
    pipeline.run(pipeline.spec())
    for statement in harmless.split("; "):
        pipeline.app.execute(statement)
    assert pipeline.run(pipeline.spec()).mode == "incremental"


def test_a_truncate_while_ranges_are_read_is_no_other_shape(pipeline: Pipeline) -> None:
    pipeline.fill(100)
    spec = pipeline.spec(rows_per_range=40)
    first, *rest = pipeline.cut(spec)
    batches = [pipeline.read(spec, first)]
    change(pipeline, "truncate orders; alter table orders alter amount set default 1")
    batches += [pipeline.read(spec, part) for part in rest]
    pipeline.load(spec, *batches)


@pytest.mark.parametrize("below", [False, True])
def test_a_view_of_another_definition_is_read_whole(pipeline: Pipeline, below: bool) -> None:
    change(pipeline, "insert into orders select n, n, '2026-01-01' from generate_series(1, 2) n")
    change(pipeline, "create view sales as select * from orders where id = 1; create view outlet as table sales")
    spec = pipeline.spec("outlet" if below else "sales")
    pipeline.run(spec)
    change(pipeline, "create or replace view sales as table orders")
    assert pipeline.run(spec).mode == "full"
    pipeline.assert_equal(table=spec.table)


def test_an_append_table_follows_what_its_cursor_does_not_show(pipeline: Pipeline) -> None:
    spec = pipeline.spec(mode="append")
    pipeline.insert(1, at="'2026-01-01'")
    pipeline.run(spec)
    change(pipeline, "alter table orders alter amount type numeric(12,4) using amount * 100")
    pipeline.run(spec)
    pipeline.assert_equal()
    change(pipeline, "alter table orders add color text default 'red'")
    pipeline.run(spec)
    pipeline.run(spec, window=WHOLE)
    pipeline.assert_equal("id, color")


def test_a_load_that_gives_way_to_a_newer_one_does_not_speak_for_its_rows(loaded: Pipeline) -> None:
    """Two runs at once, one of which has the entry of before: its rows stay as that had them read."""
    old, new = loaded.spec(columns={"note": "hash"}), loaded.spec()
    loaded.run(old)
    batch = loaded.extract(new, run_id="new")
    change(loaded, "update orders set amount = 2")
    loaded.beside().run(old, run_id="old", window=WHOLE)
    loaded.load(new, batch)
    assert loaded.run(new).mode == "full"
    loaded.assert_equal("id, note")


@pytest.mark.parametrize("after", [{"key": ["n"]}, {"columns": {"note": "omit"}}, {"cursor": "seen_at"}])
def test_what_was_read_before_its_entry_changed_is_read_again(loaded: Pipeline, after: dict[str, Any]) -> None:
    """Deployed in mid-run. Buckets of one key were looked for by another, and living rows marked as deleted."""
    batch = loaded.extract(loaded.spec())
    with pytest.raises(TerminalError, match="its source entry changed after this was read; clear the table's extract"):
        loaded.load(loaded.spec(**after), batch)


def test_columns_that_a_person_added_to_raw_are_left_alone(loaded: Pipeline) -> None:
    change(loaded, "alter table orders drop note")
    loaded.warehouse.execute("alter table raw_shop.orders add seen_by text default 'me'")
    loaded.warehouse.execute("alter table raw_shop.orders add twice numeric generated always as (amount * 2) stored")
    change(loaded, "update orders set amount = 7, updated_at = now()")
    loaded.run(loaded.spec())
    assert loaded.raw("select note, seen_by, twice from raw_shop.orders order by id") == [
        ("note 1", "me", 14),
        ("note 2", "me", 14),
    ]


LOCAL = {"cursor": "local", "overlap": "1 hour"}


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ({"cursor": "seen_at"}, {}, "cursor"),
        (LOCAL | {"cursor_zone": "UTC"}, LOCAL | {"cursor_zone": "Europe/Berlin"}, "cursor_zone"),
        ({"mode": "append"}, {"drift": "freeze"}, "mode"),
        ({"columns": {"note": "omit"}}, {}, "columns"),
        ({"columns": {"note": "hash"}}, {}, "columns"),
    ],
)
def test_a_source_entry_that_hid_changes_is_read_whole_when_it_changes(
    loaded: Pipeline, before: dict[str, Any], after: dict[str, Any], named: str
) -> None:
    change(loaded, "alter table orders add seen_at timestamptz not null default '2026-01-01'")
    change(loaded, "alter table orders add local timestamp not null default '2026-01-01'")
    loaded.run(loaded.spec(**before))
    loaded.run(loaded.spec(**before))
    change(loaded, "update orders set amount = 9, note = 'new'")
    loaded.run(loaded.spec(**before))
    spec = loaded.spec(**after)
    plan = plan_table(loaded.source, loaded.warehouse, spec, loaded.horizon(), None)
    assert ("schema", f"`{named}` changed in its source entry: every row is read") in plan.steps
    assert loaded.run(spec).mode == "full"
    loaded.assert_same("id, amount, n, note, updated_at", "orders", "id")
    assert loaded.run(spec).mode == "incremental"


def test_a_backfill_does_not_hide_a_changed_entry_from_the_next_run(loaded: Pipeline) -> None:
    loaded.run(loaded.spec(columns={"note": "omit"}), window=BACKFILL)
    assert loaded.run(loaded.spec()).mode == "incremental"
    loaded.run(loaded.spec(columns={"n": "omit"}))
    loaded.run(loaded.spec(), window=BACKFILL)
    assert loaded.run(loaded.spec()).mode == "full"


def test_a_shape_of_an_earlier_version_has_no_entry_to_differ_from(loaded: Pipeline) -> None:
    loaded.warehouse.execute("update _elt.load_ledger set source_shape = source_shape - 'entry'")
    assert loaded.run(loaded.spec()).mode == "incremental"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("smallint", "integer"),
        ("smallint", "bigint"),
        ("integer", "bigint"),
        ("bigint", "numeric"),
        ("real", "double precision"),
        ("varchar(10)", "text"),
        ("char(5)", "text"),
        ("date", "timestamp"),
    ],
)
def test_a_widened_column_is_altered_in_the_load(pipeline: Pipeline, before: str, after: str) -> None:
    value = "'2026-01-01'" if before == "date" else "'0.1'" if before == "real" else "'7'"
    change(pipeline, f"alter table orders add v {before}; insert into orders values (1, 1, '2026-01-01', {value})")
    pipeline.run(pipeline.spec())
    change(pipeline, f"alter table orders alter v type {after}")
    pipeline.run(pipeline.spec())
    assert raw_type(pipeline, "v") == {"timestamp": "timestamp without time zone"}.get(after, after)
    pipeline.assert_same("id, v", "orders", "id")


@pytest.mark.parametrize(
    "after", ["numeric(12,4)", "numeric(6,1)", "numeric(20,2)", "numeric using amount * 100", "numeric using null"]
)
def test_a_changed_length_or_precision_needs_no_ddl_and_is_read_whole(pipeline: Pipeline, after: str) -> None:
    change(pipeline, "alter table orders alter amount type numeric(10,2)")
    change(pipeline, "insert into orders values (1, 1.25, now() - interval '1 day')")
    pipeline.run(pipeline.spec())
    change(pipeline, f"alter table orders alter amount type {after}")
    pipeline.run(pipeline.spec())
    assert raw_type(pipeline, "amount") == "numeric"
    pipeline.assert_same("id, amount", "orders", "id")


def test_a_backfill_does_not_hide_a_rewrite_from_the_next_run(loaded: Pipeline) -> None:
    change(loaded, "alter table orders alter n type bigint using n * 1000")
    horizon = loaded.horizon()
    loaded.run(loaded.spec(), window=Window("window", horizon.at, horizon.read_at, None))
    assert raw_type(loaded, "n") == "bigint"
    loaded.run(loaded.spec())
    loaded.assert_same("id, n", "orders", "id")


def test_a_relaxed_not_null_lets_nulls_through(pipeline: Pipeline) -> None:
    change(pipeline, "alter table orders add n int not null default 1; insert into orders values (1, 1)")
    pipeline.run(pipeline.spec())
    change(pipeline, "alter table orders alter n drop not null; update orders set n = null")
    pipeline.run(pipeline.spec())
    assert pipeline.raw("select n from raw_shop.orders") == [(None,)]


@pytest.fixture
def moods(pipeline: Pipeline) -> Pipeline:
    for connection in (pipeline.app, pipeline.warehouse):
        connection.execute("create type public.mood as enum ('sad', 'happy')")
    change(
        pipeline, "alter table orders add mood mood, add moods mood[]; insert into orders values (1, 1, now(), 'sad')"
    )
    pipeline.run(pipeline.spec())
    return pipeline


def test_an_added_enum_value_is_added_at_its_place(moods: Pipeline) -> None:
    change(moods, "alter type mood add value 'it''s' before 'sad'; alter type mood add value 'so-so' after 'sad'")
    change(moods, "alter type mood add value 'glad'")
    change(moods, "update orders set mood = 'so-so', moods = '{glad,it''s}'")
    moods.run(moods.spec())
    moods.assert_same("id, mood, moods", "orders", "id")
    labels = "select array_agg(enumlabel::text order by enumsortorder) from pg_enum"
    assert moods.raw(labels) == moods.app.execute(labels).fetchall()


def test_an_enum_value_added_since_the_table_was_looked_at_is_a_reason_to_look_again(moods: Pipeline) -> None:
    spec = moods.spec()
    [part] = moods.cut(spec)
    change(moods, "alter type mood add value 'glad'")
    change(moods, "update orders set mood = 'glad'")
    with pytest.raises(TransientError, match="the labels of their types changed"):
        moods.read(spec, part)
    moods.run(spec)
    moods.assert_same("id, mood", "orders", "id")


@pytest.mark.parametrize("statement", ["alter table orders drop column mood", "truncate orders"])
def test_a_table_stays_as_it_is_while_it_is_looked_at(
    moods: Pipeline, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    """A column dropped in between failed the task for good: the next query names it."""

    def and_change(*given: object, **options: bool) -> object:
        found = examine(*given, **options)  # type: ignore[arg-type]
        with pytest.raises(psycopg.errors.LockNotAvailable):
            change(moods, f"set lock_timeout = '100ms'; {statement}")
        return found

    monkeypatch.setattr("include.extract.table.examine", and_change)
    moods.run(moods.spec(), window=WHOLE)
    moods.assert_same("id, mood", "orders", "id")


def test_a_renamed_enum_value_stops_with_the_statement(moods: Pipeline) -> None:
    change(moods, "alter type mood rename value 'sad' to 'down'")
    rename = stopped(moods, "has \\['down'\\] in the source and \\['sad'\\] in the warehouse")
    assert "alter type public.mood rename value 'sad' to 'down'" in rename
    moods.warehouse.execute("alter type public.mood rename value 'sad' to 'down'")
    moods.run(moods.spec())
    moods.assert_same("id, mood", "orders", "id")


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_label_that_the_source_lacks_is_not_taken_for_a_new_one_s_old_name(
    moods: Pipeline, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    """A source lost the commit that had added it, or a person added it in the warehouse."""
    moods.warehouse.execute("alter type public.mood add value 'lost' after 'sad'")
    change(moods, "alter type mood add value 'new' after 'sad'")
    change(moods, "insert into orders values (9, 1, now(), 'new')")
    if is_lost:
        loss = Loss("it went back", None, is_elsewhere=True)
        monkeypatch.setattr("include.extract.table.find_loss", lambda *_: loss)
    moods.run(moods.spec())
    moods.assert_same("id, mood", "orders", "id")


def stopped(pipeline: Pipeline, message: str, **extract: Any) -> str:
    """The message of a table that stops; nothing was written, and another table goes on."""
    extractions = "select count(*), (select count(*) from _elt.load_ledger) from _elt.extraction"
    before = pipeline.raw(extractions)
    with pytest.raises(DriftError, match=message) as raised:
        pipeline.extract(pipeline.spec(**extract))
    assert pipeline.raw(extractions) == before
    assert "\n" not in str(raised.value)
    pipeline.app.execute("create table if not exists other (id int, updated_at timestamptz)")
    pipeline.run(pipeline.spec("other"))
    return str(raised.value)


def run_ddl(pipeline: Pipeline, message: str) -> None:
    pipeline.warehouse.execute(message.split("run in the warehouse: ")[1].split(", then clear this task")[0])


def test_a_renamed_column_stops_with_the_ddl(loaded: Pipeline) -> None:
    change(loaded, 'alter table orders rename note to "the Note"')
    message = stopped(loaded, "column 'note' was renamed to 'the Note'")
    run_ddl(loaded, message)
    loaded.run(loaded.spec())
    loaded.assert_same('id, n, "the Note"', "orders", "id")


def test_what_was_read_before_a_rename_does_not_bring_the_old_name_back(loaded: Pipeline) -> None:
    """It emptied the renamed column, in rows that no later run reads again."""
    change(loaded, "update orders set amount = 0")
    batch = loaded.extract(loaded.spec(), window=BACKFILL)
    change(loaded, "alter table orders rename note to remark")
    run_ddl(loaded, stopped(loaded, "renamed to 'remark'"))
    with pytest.raises(TerminalError, match=r"raw's columns changed after this was read \(note\); clear the table's"):
        loaded.load(loaded.spec(), batch)
    loaded.run(loaded.spec())
    loaded.run(loaded.spec(), window=BACKFILL)
    loaded.assert_same("id, amount, n, remark", "orders", "id")


def test_what_was_read_before_a_widening_is_read_again(loaded: Pipeline) -> None:
    """The remedy was the look's, to make raw narrower again."""
    batch = loaded.extract(loaded.spec())
    change(loaded, "alter table orders alter n type bigint")
    loaded.run(loaded.spec(), window=BACKFILL)
    with pytest.raises(TerminalError, match=r"raw's columns changed after this was read \(a type\); clear the table's"):
        loaded.load(loaded.spec(), batch)
    assert raw_type(loaded, "n") == "bigint"


def test_a_narrowed_column_stops_with_the_ddl(loaded: Pipeline) -> None:
    change(loaded, "alter table orders alter n type smallint")
    message = stopped(loaded, "column 'n' is smallint in the source and integer in raw")
    run_ddl(loaded, message)
    loaded.run(loaded.spec())
    loaded.assert_same("id, n", "orders", "id")


def test_a_changed_key_stops_with_the_ddl(loaded: Pipeline) -> None:
    message = stopped(loaded, r"its key is \['id', 'n'\], and \['id'\] in raw", key=["id", "n"])
    assert 'drop constraint "orders_pkey", add primary key ("id", "n")' in message
    run_ddl(loaded, message)
    loaded.run(loaded.spec(key=["id", "n"]))
    loaded.assert_same("id, n", "orders", "id")


def test_a_dropped_table_stops(loaded: Pipeline) -> None:
    change(loaded, "drop table orders")
    with pytest.raises(Exception, match='"public"."orders" does not exist in database'):
        loaded.extract(loaded.spec())


def test_a_table_created_again_stops_with_the_command(loaded: Pipeline) -> None:
    change(loaded, "create table again (like orders including all); drop table orders cascade")
    change(loaded, "insert into again values (1, 5, '2020-01-01'); alter table again rename to orders")
    message = stopped(loaded, "was dropped and created again")
    assert """airflow dags trigger elt_pipeline --conf '{"tables": ["shop.orders"], "full_refresh": true}'""" in message
    loaded.run(loaded.spec(deletes="soft"), window=WHOLE)
    loaded.assert_equal()
    assert loaded.run(loaded.spec()).mode == "incremental"


def test_a_truncated_table_is_not_created_again(loaded: Pipeline) -> None:
    change(loaded, "truncate orders; insert into orders values (9, 9, '2020-01-01')")
    loaded.run(loaded.spec(deletes="soft"))
    loaded.assert_equal()


@pytest.mark.parametrize(
    ("statements", "named"),
    [
        ("alter table orders add color text", "color text is new"),
        ("alter table orders drop note", "note is gone"),
        ("alter table orders alter n type bigint", "n was changed"),
        ("alter table orders alter note type varchar(20)", "note was changed"),
        ("alter table orders alter note set not null", "note was changed"),
    ],
)
def test_freeze_stops_at_any_change(loaded: Pipeline, statements: str, named: str) -> None:
    loaded.run(loaded.spec(drift="freeze"))
    change(loaded, statements)
    assert named in stopped(loaded, "accept it by a run with `drift: evolve`", drift="freeze")
    loaded.run(loaded.spec())
    loaded.run(loaded.spec(drift="freeze"))


def test_what_will_be_done_is_known_before(loaded: Pipeline) -> None:
    change(loaded, "alter table orders add color text, alter n type bigint")
    found = examine(loaded.source, loaded.warehouse, loaded.spec(), Window("incremental", None, None, None))
    assert found.drift.statements(loaded.spec()) == [
        'alter table "raw_shop"."orders" add column "color" text',
        'alter table "raw_shop"."orders" alter column "n" type bigint using "n"::bigint',
    ]


def test_a_ledger_of_an_earlier_version_is_brought_up_to_date(loaded: Pipeline) -> None:
    for table in ("load_ledger", "extraction"):
        loaded.warehouse.execute(f"alter table _elt.{table} drop source_shape")
    loaded.warehouse.execute("comment on table _elt.extraction is 'of an earlier version'")
    assert ledger.last_shape(loaded.warehouse, loaded.spec()) is None
    loaded.run(loaded.spec())
    assert ledger.last_shape(loaded.warehouse, loaded.spec()) is not None


def test_a_column_is_widened_beneath_the_views_of_dbt(
    least: Pipeline, roles: Callable[[str], psycopg.Connection]
) -> None:
    change(least, "alter table orders alter n type bigint; update orders set n = 3000000000, updated_at = now()")
    least.run(least.spec())
    with roles("bi_reader") as reader:
        assert reader.execute("select more from marts.b").fetchall() == [(3000000001,)]
    owners = "select relname, relowner::regrole::text, reloptions from pg_class where relname in ('a', 'b') order by 1"
    assert least.raw(owners) == [("a", "dbt_transformer", ["security_barrier=true"]), ("b", "dbt_transformer", None)]


DESCRIBED = """
    select relname, relowner::regrole::text, reloptions, obj_description(pg_class.oid, 'pg_class'),
        array(select acl::text from unnest(relacl) as acl order by 1),
        array(
            select concat(attname, attacl, col_description(attrelid, attnum))
            from pg_attribute where attrelid = pg_class.oid order by attnum
        ),
        pg_get_viewdef(pg_class.oid)
    from pg_class where relname in ('a', 'b', 'c') order by 1
"""


def test_views_come_back_as_they_were(least: Pipeline, roles: Callable[[str], psycopg.Connection]) -> None:
    with roles("dbt_transformer") as dbt:
        dbt.execute(
            """
            create view marts.c with (check_option = local) as
                select id, n, 'it''s \\ a' as text, e'\\n' as line, null = n as nothing from raw_shop.orders;
            grant select on staging.a to bi_reader with grant option;
            grant select (n), update (id) on staging.a to elt_watcher;
            revoke all on marts.b from bi_reader;
            revoke delete on marts.b from dbt_transformer;
            grant insert on marts.c to public;
            comment on view staging.a is 'it''s an \\ "a"';
            comment on column marts.b.more is 'more %s';
        """
        )
    before = least.raw(DESCRIBED)
    change(least, "alter table orders alter n type bigint; update orders set n = 3000000000, updated_at = now()")
    least.run(least.spec())
    assert least.raw("select n from raw_shop.orders") == [(3000000000,)]
    assert least.raw(DESCRIBED) == before


@pytest.mark.parametrize(
    "own",
    [
        "create rule own as on insert to marts.b do instead nothing",
        "alter view marts.b alter more set default 1",
        "create function marts.f() returns trigger language plpgsql as 'begin return new; end'; "
        "create trigger own instead of insert on marts.b for each row execute function marts.f()",
        "create materialized view marts.m as select * from marts.b",
    ],
)
def test_a_view_with_more_than_a_query_stops_the_table_before_it_is_read(
    least: Pipeline, roles: Callable[[str], psycopg.Connection], own: str
) -> None:
    with roles("dbt_transformer") as dbt:
        dbt.execute(own)
    change(least, "alter table orders alter n type bigint")
    stopped(
        least, "column 'n' became bigint, and views use it; run in the warehouse: drop view if exists staging.a cascade"
    )
    with pytest.raises((psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.WrongObjectType)):
        least.warehouse.execute("select _elt.lift_views('raw_shop.orders', '{n}')")


def test_a_view_of_another_owner_stops_the_table(least: Pipeline, roles: Callable[[str], psycopg.Connection]) -> None:
    least.warehouse.execute("create view raw_shop.own as select n from raw_shop.orders")
    change(least, "alter table orders alter n type bigint")
    stopped(least, "drop view if exists raw_shop.own cascade; drop view if exists staging.a cascade")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must be owner of view own"):
        least.warehouse.execute("select _elt.lift_views('raw_shop.orders', '{n}')")


@pytest.mark.parametrize("role", ["raw_loader", "elt_watcher"])
def test_views_of_another_s_table_are_lifted_for_nobody(
    least: Pipeline, roles: Callable[[str], psycopg.Connection], role: str
) -> None:
    with roles("dbt_transformer") as dbt:
        dbt.execute("create table marts.c (n int); create view marts.d as select n from marts.c")
    with roles(role) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute("select _elt.lift_views(oid, '{n}') from pg_class where relname = 'c' and relkind = 'r'")


def test_nothing_of_the_loader_runs_with_the_rights_of_another(least: Pipeline) -> None:
    """Casts, checks of the table and of its children, domains, defaults, generated columns and indexes are its own."""
    least.warehouse.execute(
        """
        create table raw_shop.ran (as_role name);
        create function raw_shop.note() returns boolean language sql as
            'insert into raw_shop.ran values (current_user) returning true';
        create function raw_shop.quiet(n bigint) returns boolean immutable language plpgsql as
            'begin perform raw_shop.note(); return true; end';
        create type raw_shop.e as enum ('7');
        create function raw_shop.cast(e raw_shop.e) returns text language sql as
            'select raw_shop.note(); select ''7''::text';
        create cast (raw_shop.e as text) with function raw_shop.cast(raw_shop.e) as assignment;
        create domain raw_shop.checked as text check (raw_shop.quiet(value::int8));
        create table raw_shop.t (n raw_shop.e, m int check (raw_shop.quiet(m)));
        create table raw_shop.child (check (raw_shop.quiet(n::text::int8))) inherits (raw_shop.t);
        create index on raw_shop.t (raw_shop.quiet(m));
        insert into raw_shop.t values ('7', 7);
        insert into raw_shop.child values ('7', 7);
        delete from raw_shop.ran;
    """
    )
    for type_name in ("text", "raw_shop.checked"):
        with least.warehouse.transaction():
            least.warehouse.execute("select _elt.lift_views('raw_shop.t', '{n, m}')")
            least.warehouse.execute(f"alter table raw_shop.t alter n type {type_name}, alter m type bigint")
            least.warehouse.execute("select _elt.put_views_back()")
    assert least.raw("select distinct as_role from raw_shop.ran") == [("raw_loader",)]


def test_what_is_put_back_is_what_was_lifted(least: Pipeline, postgres: Postgres) -> None:
    """A table that the loader made in its place is not run as dbt's."""
    least.warehouse.execute("select _elt.lift_views('raw_shop.orders', '{n}')")  # its transaction has ended
    with psycopg.connect(postgres.server.superuser_dsn("warehouse"), autocommit=True) as superuser:
        superuser.execute("grant temporary on database warehouse to raw_loader")
    least.warehouse.execute("create temporary table lifted_view as select 'create table marts.mine ()' as definition")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="no views were lifted"):
        least.warehouse.execute("select _elt.put_views_back()")
    with pytest.raises(psycopg.errors.DuplicateTable):
        least.warehouse.execute("select _elt.lift_views('raw_shop.orders', '{n}')")


def test_without_the_function_a_view_stops_the_table_with_the_statements(
    least: Pipeline, roles: Callable[[str], psycopg.Connection]
) -> None:
    with roles("warehouse_admin") as admin:
        admin.execute("drop function _elt.lift_views")
    change(least, "alter table orders alter n type bigint")
    message = stopped(least, "column 'n' became bigint, and views use it")
    with roles("warehouse_admin") as admin:
        admin.execute(message.split("run in the warehouse: ")[1].split(", then clear")[0])
    least.run(least.spec())
    least.assert_same("id, n", "orders", "id")


@pytest.mark.parametrize("kind", ["view", "materialized view"])
def test_a_type_that_holds_not_all_values_stops_with_what_can_be_run_below_views(
    least: Pipeline, roles: Callable[[str], psycopg.Connection], kind: str
) -> None:
    with roles("dbt_transformer") as dbt:
        dbt.execute(f"create {kind} marts.directly as select n + 1 as more from raw_shop.orders")
        dbt.execute("create view marts.above as select more from marts.directly")
    change(least, "alter table orders alter n type text")
    message = stopped(least, "column 'n' is text in the source and integer in raw")
    assert message.endswith(": dbt makes its views again; keep the text of others first (pg_get_viewdef)")
    with roles("warehouse_admin") as admin:
        admin.execute(message.split("run in the warehouse: ")[1].split(", then clear")[0])
    least.run(least.spec())
    least.assert_same("id, n", "orders", "id")


MOODS = "create type public.mood as enum ('sad', 'happy')"


def test_a_person_makes_a_type_and_its_later_labels_by_the_statements_of_the_messages(
    least: Pipeline, roles: Callable[[str], psycopg.Connection]
) -> None:
    change(least, f"{MOODS}; alter table orders add mood mood; update orders set mood = 'sad', updated_at = now()")
    with roles("warehouse_admin") as admin:
        with pytest.raises(TerminalError, match="no type public.mood") as no_type:
            least.run(least.spec())
        admin.execute(str(no_type.value).split("run there: ")[1].split(", or write")[0])
        least.run(least.spec())
        change(least, "alter type mood add value 'glad'; alter type mood add value 'so-so'")
        with pytest.raises(DriftError, match="may not add .must be owner of type public.mood") as no_label:
            least.run(least.spec())
        admin.execute(str(no_label.value).split("run in the warehouse: ")[1].split(", then clear")[0])
    change(least, "update orders set mood = 'glad', updated_at = now()")
    least.run(least.spec())
    least.assert_same("id, mood", "orders", "id")


def test_a_schema_of_types_that_the_loader_may_not_use_is_named(
    least: Pipeline, roles: Callable[[str], psycopg.Connection]
) -> None:
    change(least, "create schema kinds; create type kinds.mood as enum ('sad'); alter table orders add mood kinds.mood")
    with roles("warehouse_admin") as admin:
        admin.execute("create schema kinds; create type kinds.mood as enum ('sad')")
        with pytest.raises(TerminalError, match="may not use schema kinds of the warehouse") as raised:
            least.run(least.spec())
        admin.execute(str(raised.value).split("run there: ")[1])
    least.run(least.spec())
