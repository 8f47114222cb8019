"""What a load changes in raw, and what it leaves as it is."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from psycopg import sql

from include.errors import TerminalError
from include.postgres.buckets import Buckets
from include.postgres.catalog import estimated_rows
from include.state import ledger
from include.state.messages import Window
from tests.include.conftest import Pipeline


def test_first_load_brings_every_row_and_stamps_it(pipeline: Pipeline) -> None:
    pipeline.insert(1, 2, 3)
    result = pipeline.run(pipeline.spec(), run_id="r1")
    assert (result.mode, result.rows_extracted, result.rows_inserted) == ("first", 3, 3)
    pipeline.assert_equal()
    stamps = pipeline.raw("select distinct _loaded_at, _run_id, _deleted_at from raw_shop.orders")
    assert stamps == [(result.loaded_at, "r1", None)]


def test_the_key_of_raw_is_its_primary_key(pipeline: Pipeline) -> None:
    pipeline.run(pipeline.spec())
    query = "select conname from pg_constraint where conrelid = 'raw_shop.orders'::regclass and contype = 'p'"
    assert pipeline.raw(query) == [("orders_pkey",)]


def test_the_key_is_built_with_memory_to_sort_it_in(pipeline: Pipeline) -> None:
    pipeline.warehouse.execute(
        """
        create table public.seen (memory text);
        create function public.note() returns event_trigger language plpgsql as $$
        begin insert into public.seen values (current_setting('maintenance_work_mem')); end $$;
        create event trigger note on ddl_command_end when tag in ('ALTER TABLE') execute function public.note();
    """
    )
    for setting, memory in (("64MB", "256MB"), ("1GB", "1GB")):
        pipeline.warehouse.execute(f"drop table if exists raw_shop.orders; set maintenance_work_mem = '{setting}'")
        pipeline.run(pipeline.spec(mode="full"))
        assert pipeline.raw("select memory from public.seen")[-1] == (memory,)
        assert pipeline.raw("show maintenance_work_mem") == [(setting,)]


def test_incremental_run_brings_inserts_and_updates(pipeline: Pipeline) -> None:
    pipeline.insert(1, 2, at="now() - interval '1 day'")
    pipeline.run(pipeline.spec())
    pipeline.insert(3)
    pipeline.app.execute("update orders set amount = 9, updated_at = now() where id = 1")
    result = pipeline.run(pipeline.spec())
    assert (result.mode, result.rows_extracted, result.rows_inserted, result.rows_updated) == ("incremental", 2, 1, 1)
    pipeline.assert_equal()


def test_rows_that_did_not_change_are_not_written(pipeline: Pipeline) -> None:
    pipeline.insert(1)
    first = pipeline.run(pipeline.spec())
    again = pipeline.run(pipeline.spec())
    assert (again.rows_extracted, again.rows_inserted, again.rows_updated) == (1, 0, 0)
    assert pipeline.raw("select _loaded_at from raw_shop.orders") == [(first.loaded_at,)]


def test_rows_that_did_not_change_are_not_even_locked(pipeline: Pipeline) -> None:
    """A lock is a write of the row's page, and right after a checkpoint of the whole page to the log."""
    pipeline.insert(*range(1, 30))
    pipeline.run(pipeline.spec())
    assert pipeline.run(pipeline.spec()).rows_extracted == 29
    assert pipeline.raw("select count(*) from raw_shop.orders where xmax <> 0") == [(0,)]


def test_rows_are_found_by_any_key(pipeline: Pipeline) -> None:
    """Few among many, by keys of several columns, of types outside pg_catalog, and declared in another order."""
    pipeline.app.execute("create type mood as enum ('sad', 'glad')")
    pipeline.warehouse.execute("create type public.mood as enum ('sad', 'glad')")
    pipeline.app.execute(
        "create table feelings (felt mood, n numeric, days daterange, note text, updated_at timestamptz, "
        "primary key (felt, n, days))"
    )
    pipeline.app.execute(
        "insert into feelings "
        "select unnest(enum_range(null::mood)), n, daterange(null, current_date + n), '', '2026-01-01' "
        "from generate_series(1, 100) n"
    )
    assert pipeline.run(pipeline.spec("feelings", key=["felt", "n", "days"])).rows_inserted == 200
    pipeline.app.execute("update feelings set note = 'x', n = n + 0.00, updated_at = now() where n = 7")
    pipeline.app.execute("insert into feelings values ('sad', 0, 'empty', 'new', now())")
    result = pipeline.run(pipeline.spec("feelings", key=["n", "days", "felt"]))
    assert (result.rows_inserted, result.rows_updated) == (1, 2)
    pipeline.assert_same("felt, n, days, note", "feelings", "felt, n, days")


@pytest.mark.parametrize(("before", "after"), [("1.0", "1.00"), ("0", "null"), ("'NaN'", "'Infinity'")])
def test_a_change_of_bytes_alone_arrives(pipeline: Pipeline, before: str, after: str) -> None:
    pipeline.app.execute(f"insert into orders values (1, {before})")
    pipeline.run(pipeline.spec())
    pipeline.app.execute(f"update orders set amount = {after}")
    assert pipeline.run(pipeline.spec()).rows_updated == 1
    pipeline.assert_equal()


REUSED = r"`mode: append`, and key \(1\) .* other content than in raw: its source changes rows, or uses keys again"


@pytest.mark.parametrize("columns", [{}, {"amount": "hash"}])
@pytest.mark.parametrize("window", [None, Window("window", datetime(2020, 1, 1, tzinfo=UTC), datetime.max, None)])
def test_a_known_key_of_an_append_table_with_other_content_is_refused(
    pipeline: Pipeline, columns: dict[str, str], window: Window | None
) -> None:
    spec = pipeline.spec(mode="append", columns=columns)
    pipeline.insert(1, 2)
    pipeline.run(spec)
    assert pipeline.run(spec).rows_extracted == 2
    before = pipeline.raw("select * from raw_shop.orders order by id")
    pipeline.app.execute("update orders set amount = 5 where id = 1")
    pipeline.insert(3)
    with pytest.raises(TerminalError, match=REUSED):
        pipeline.run(spec, window=window)
    assert pipeline.raw("select * from raw_shop.orders order by id") == before


@pytest.mark.parametrize("remedy", ["incremental", "full_refresh"])
def test_an_append_table_that_was_truncated_with_its_identity_is_refused_until_it_is_read_whole(
    pipeline: Pipeline, remedy: str
) -> None:
    """40 rows were read, none inserted, and all was green."""
    pipeline.app.execute(
        "create table clicks (id int generated always as identity primary key, what text, "
        "updated_at timestamptz not null default clock_timestamp())"
    )
    fill = "insert into clicks (what) select '{} ' || n from generate_series(1, {}) n"
    pipeline.app.execute(fill.format("old", 100))
    spec = pipeline.spec("clicks", mode="append")
    pipeline.run(spec)
    pipeline.app.execute("truncate clicks restart identity")
    pipeline.app.execute(fill.format("new", 40))
    with pytest.raises(TerminalError, match=REUSED) as refused:
        pipeline.run(spec)
    assert "and 39 more have" in str(refused.value) and '{"tables": ["shop.clicks"], "full_refresh": true}' in str(
        refused.value
    )
    if remedy == "incremental":
        spec = spec.model_copy(update={"mode": "incremental"})
    result = pipeline.run(spec, window=None if remedy == "incremental" else Window("full", None, None, None))
    assert result.rows_updated == 40
    rows = "select id, what from {} where id <= 40 order by id"
    assert pipeline.raw(rows.format("raw_shop.clicks")) == pipeline.app.execute(rows.format("clicks")).fetchall()
    pipeline.run(spec)


def test_a_column_that_an_append_table_gets_later_is_no_other_content(pipeline: Pipeline) -> None:
    """Rows of the overlap are read again, with the column's default; so is what a rewind reads."""
    spec = pipeline.spec(mode="append")
    pipeline.insert(1, 2)
    pipeline.run(spec)
    pipeline.app.execute("alter table orders add color text default 'red'")
    for _ in range(2):
        pipeline.run(spec)
        pipeline.assert_equal("id, amount, color, updated_at")
    pipeline.app.execute("update orders set color = 'blue'")
    with pytest.raises(TerminalError, match=REUSED):
        pipeline.run(spec)


def test_an_append_table_keeps_what_a_faster_run_brought(pipeline: Pipeline) -> None:
    spec = pipeline.spec(mode="append")
    pipeline.run(spec)
    pipeline.insert(1)
    slow = pipeline.extract(spec, run_id="slow")
    pipeline.app.execute("update orders set amount = 5")
    pipeline.beside().run(spec, run_id="fast")
    pipeline.load(spec, slow)
    pipeline.assert_equal()


def test_full_mode_marks_rows_that_are_gone_and_brings_them_back(pipeline: Pipeline) -> None:
    spec = pipeline.spec(mode="full", deletes="soft", cursor=None)
    pipeline.insert(1, 2)
    pipeline.run(spec)
    pipeline.app.execute("delete from orders where id = 1")
    assert pipeline.run(spec).rows_deleted == 1
    assert pipeline.raw("select id from raw_shop.orders where _deleted_at is not null") == [(1,)]
    pipeline.insert(1)
    assert pipeline.run(spec).rows_updated == 1
    pipeline.assert_equal()


def test_a_table_without_a_key_is_replaced_whole(pipeline: Pipeline) -> None:
    pipeline.app.execute("create table events (what text)")
    pipeline.app.execute("insert into events values ('a'), ('a'), ('b')")
    spec = pipeline.spec("events", mode="full", key=[], cursor=None)
    pipeline.run(spec)
    pipeline.app.execute("delete from events where what = 'b'")
    assert pipeline.run(spec).rows_deleted == 1
    pipeline.assert_equal("what", "events")


def test_a_part_of_a_table_without_a_key_does_not_take_the_place_of_all(pipeline: Pipeline) -> None:
    spec = pipeline.spec(mode="full", key=[])
    pipeline.insert(1, at="'2026-01-01'")
    pipeline.insert(2)
    pipeline.run(spec)
    part = pipeline.extract(spec, window=Window("window", datetime(2026, 2, 1, tzinfo=UTC), None, None))
    with pytest.raises(TerminalError, match="a part was read of a table without a key.*clear the table's extract task"):
        pipeline.load(spec, part)
    pipeline.assert_equal()


@pytest.mark.parametrize("primary_key", ["(id, day)", "(id, updated_at)"])
def test_two_rows_of_one_key_are_refused_where_one_equals_raw(pipeline: Pipeline, primary_key: str) -> None:
    """The declared key is a part of the real one: MERGE found one row to change, and the other was lost."""
    pipeline.app.execute(
        f"create table t (id bigint, day date, updated_at timestamptz default now(), primary key {primary_key})"
    )
    pipeline.app.execute("insert into t values (1, '2026-01-01')")
    pipeline.run(pipeline.spec("t"))
    pipeline.app.execute("insert into t values (1, '2026-01-02')")
    with pytest.raises(TerminalError, match=r"key \['id'\] is not unique \(several rows have \(1\)\)"):
        pipeline.run(pipeline.spec("t"))


@pytest.mark.parametrize(
    ("mode", "deletes"), [("incremental", "ignore"), ("incremental", "soft"), ("append", "ignore")]
)
def test_two_rows_of_one_key_are_refused_where_only_one_of_them_is_read(
    pipeline: Pipeline, mode: str, deletes: str
) -> None:
    """The other has not moved since it was loaded: the one that is read looked like its next version."""
    pipeline.app.execute("create table t (id bigint, day date, updated_at timestamptz, primary key (id, day))")
    pipeline.app.execute("insert into t values (1, '2026-01-01', '2026-01-01'), (2, '2026-01-01', '2026-01-01')")
    spec = pipeline.spec("t", mode=mode, deletes=deletes)
    pipeline.run(spec)
    pipeline.app.execute("insert into t values (3, '2026-01-02', now())")
    pipeline.run(spec)
    pipeline.app.execute("insert into t values (1, '2026-01-02', now())")
    with pytest.raises(TerminalError, match=r"key \['id'\] is not unique \(several rows have \(1\)\)"):
        pipeline.run(spec)
    assert pipeline.raw("select day::text from raw_shop.t where id = 1") == [("2026-01-01",)]
    pipeline.app.execute("delete from t where id = 1 and day = '2026-01-01'")
    if mode == "incremental":
        assert pipeline.run(spec).rows_updated == 1


def test_a_backfill_refuses_two_rows_of_one_key_of_which_it_reads_one(pipeline: Pipeline) -> None:
    pipeline.app.execute("create table t (id bigint, updated_at timestamptz)")
    pipeline.app.execute("insert into t values (1, '2026-01-01')")
    window = Window("window", datetime(2026, 2, 1, tzinfo=UTC), None, None)
    pipeline.load(pipeline.spec("t"), pipeline.extract(pipeline.spec("t"), window=window))  # raw has no table yet
    pipeline.run(pipeline.spec("t"))
    pipeline.app.execute("insert into t values (1, '2026-02-02')")
    with pytest.raises(TerminalError, match="is not unique"):
        pipeline.extract(pipeline.spec("t"), window=window)


def test_a_raw_table_without_its_key_stops_the_load(pipeline: Pipeline) -> None:
    pipeline.run(pipeline.spec())
    batch = pipeline.extract(pipeline.spec())
    pipeline.warehouse.execute("alter table raw_shop.orders drop constraint orders_pkey")
    with pytest.raises(TerminalError, match='run in the warehouse: alter table .* add primary key [(]"id"[)]'):
        pipeline.load(pipeline.spec(), batch)


def test_a_repair_does_not_take_the_place_of_a_dropped_raw_table(pipeline: Pipeline) -> None:
    """Of `mode: full`, which has no mark that tells of it."""
    spec = pipeline.spec(mode="full", cursor=None)
    pipeline.insert(*range(20))
    pipeline.run(spec)
    part = pipeline.extract(spec, window=Window("repair", None, None, None, Buckets(4, (1,))))
    pipeline.warehouse.execute("drop table raw_shop.orders")
    with pytest.raises(TerminalError, match="was dropped or emptied after this was read"):
        pipeline.load(spec, part)


def test_a_new_version_of_a_row_stays_on_its_page(pipeline: Pipeline) -> None:
    """So that the key needs no new entry; half of the cost of an update that is spread over a large table."""
    pipeline.fill(1000)
    pipeline.run(pipeline.spec())
    pipeline.app.execute("update orders set amount = 0, updated_at = now() where id = 1")
    pipeline.run(pipeline.spec())
    assert pipeline.raw("select (ctid::text::point)[0]::int, amount from raw_shop.orders where id = 1") == [(0, 0)]


def test_what_is_new_in_a_large_table_is_known_to_the_planner_at_once(pipeline: Pipeline) -> None:
    pipeline.fill(110_000)
    first = pipeline.run(pipeline.spec())
    pipeline.app.execute("insert into orders select n, n, now() from generate_series(110001, 120000) n")
    pipeline.run(pipeline.spec())
    query = sql.SQL("select from raw_shop.orders where _loaded_at > {}").format(sql.Literal(first.loaded_at))
    assert 5_000 < estimated_rows(pipeline.warehouse, query) < 20_000
    # The other columns were sampled when all was new, and are again once a tenth has changed.
    largest = "select max(bound) from pg_stats, unnest(histogram_bounds::text::bigint[]) bound where attname = 'id'"
    assert pipeline.raw(largest)[0][0] <= 110_000
    pipeline.app.execute("insert into orders select n, n, now() from generate_series(120001, 135000) n")
    pipeline.run(pipeline.spec())
    assert pipeline.raw(largest)[0][0] > 120_000


def test_a_raw_table_that_a_person_emptied_is_filled_again(pipeline: Pipeline) -> None:
    spec = pipeline.spec(overlap="0.001 seconds")
    pipeline.insert(1, 2, at="'2026-01-01'")
    pipeline.run(spec)
    pipeline.warehouse.execute("truncate raw_shop.orders")
    pipeline.run(spec)
    pipeline.assert_equal()


@pytest.mark.parametrize("side", ["source", "warehouse"])
def test_no_limit_of_the_server_ends_a_long_transaction(pipeline: Pipeline, side: str) -> None:
    """PostgreSQL 17 has one, which every attempt would meet again."""
    owner = pipeline.app if side == "source" else pipeline.warehouse
    database = sql.Identifier(owner.info.dbname)
    owner.execute(sql.SQL("alter database {} set transaction_timeout = '1h'").format(database))
    session = getattr(pipeline.beside(), side)
    assert session.execute("show transaction_timeout").fetchone() == ("0",)


def test_a_warehouse_without_merge_is_refused(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "OLDEST_VERSION", 990_000)
    with pytest.raises(TerminalError, match="the warehouse is PostgreSQL .* or later is needed"):
        ledger.ensure(pipeline.warehouse, "raw_shop")
