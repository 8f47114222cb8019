"""Extract and load on real servers: what arrives, what is refused, and what survives crashes and overlaps."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from include import watermark
from include.batch import Window
from include.catalog import estimated_rows
from include.errors import ConfigError, DriftError, TerminalError
from include.load import extractions, ledger
from tests.include.conftest import Pipeline

DAY = timedelta(days=1)


def insert(pipeline: Pipeline, *ids: int, at: str = "now()") -> None:
    for number in ids:
        pipeline.app.execute(f"insert into orders values ({number}, {number}.50, {at})")


def test_first_load_brings_every_row_and_stamps_it(pipeline: Pipeline) -> None:
    insert(pipeline, 1, 2, 3)
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
    insert(pipeline, 1, 2, at="now() - interval '1 day'")
    pipeline.run(pipeline.spec())
    insert(pipeline, 3)
    pipeline.app.execute("update orders set amount = 9, updated_at = now() where id = 1")
    result = pipeline.run(pipeline.spec())
    assert (result.mode, result.rows_extracted, result.rows_inserted, result.rows_updated) == ("incremental", 2, 1, 1)
    pipeline.assert_equal()


def test_rows_that_did_not_change_are_not_written(pipeline: Pipeline) -> None:
    insert(pipeline, 1)
    first = pipeline.run(pipeline.spec())
    again = pipeline.run(pipeline.spec())
    assert (again.rows_extracted, again.rows_inserted, again.rows_updated) == (1, 0, 0)
    assert pipeline.raw("select _loaded_at from raw_shop.orders") == [(first.loaded_at,)]


def test_rows_that_did_not_change_are_not_even_locked(pipeline: Pipeline) -> None:
    """A lock is a write of the row's page, and right after a checkpoint of the whole page to the log."""
    insert(pipeline, *range(1, 30))
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


def test_a_warehouse_without_merge_is_refused(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "OLDEST_VERSION", 990_000)
    with pytest.raises(TerminalError, match="the warehouse is PostgreSQL .* or later is needed"):
        ledger.ensure(pipeline.warehouse, "raw_shop")


@pytest.mark.parametrize(("before", "after"), [("1.0", "1.00"), ("0", "null"), ("'NaN'", "'Infinity'")])
def test_a_change_of_bytes_alone_arrives(pipeline: Pipeline, before: str, after: str) -> None:
    pipeline.app.execute(f"insert into orders values (1, {before})")
    pipeline.run(pipeline.spec())
    pipeline.app.execute(f"update orders set amount = {after}")
    assert pipeline.run(pipeline.spec()).rows_updated == 1
    pipeline.assert_equal()


def test_a_row_that_commits_after_the_run_is_not_lost(pipeline: Pipeline) -> None:
    """A cursor at max(updated_at) loses the late row: it carries an older stamp than one already loaded."""
    late = psycopg.connect(pipeline.source_dsn)
    late.execute("insert into orders values (1, 1)")
    late.execute("select pg_sleep(0.01)")
    insert(pipeline, 2)
    spec = pipeline.spec(overlap="0.001 seconds")
    pipeline.run(spec)
    late.commit()
    pipeline.run(spec)
    pipeline.assert_equal()


def test_the_mark_waits_for_the_oldest_transaction(pipeline: Pipeline) -> None:
    idle = psycopg.connect(pipeline.source_dsn)
    started = idle.execute("select now()").fetchone()
    insert(pipeline, 1)
    result = pipeline.run(pipeline.spec())
    assert started is not None and result.mark == started[0]
    pipeline.assert_equal()
    idle.close()


def test_the_mark_never_goes_back(pipeline: Pipeline) -> None:
    first = pipeline.run(pipeline.spec())
    behind = replace(pipeline.horizon(), at=first.mark - DAY)
    assert pipeline.run(pipeline.spec(), horizon=behind).mark == first.mark
    last = ledger.last_mark(pipeline.warehouse, pipeline.spec())
    assert last is not None and last.horizon == behind.at


def test_after_a_clock_that_stepped_back_rows_are_read_from_the_earlier_horizon(pipeline: Pipeline) -> None:
    spec = pipeline.spec(overlap="0.001 seconds")
    first = pipeline.run(spec)
    pipeline.run(spec, horizon=replace(pipeline.horizon(), at=first.mark - DAY))
    insert(pipeline, 1, at="now() - interval '6 hours'")
    pipeline.run(spec)
    pipeline.assert_equal()


def test_a_window_reads_half_open_and_moves_no_mark(pipeline: Pipeline) -> None:
    pipeline.run(pipeline.spec())
    start = datetime(2026, 1, 10, tzinfo=UTC)
    for number, at in enumerate([start - timedelta(microseconds=1), start, start + DAY]):
        insert(pipeline, number, at=f"'{at.isoformat()}'")
    before = ledger.last_mark(pipeline.warehouse, pipeline.spec())
    result = pipeline.run(pipeline.spec(), window=Window("window", start, start + DAY, None))
    assert (result.rows_extracted, result.mark) == (1, None)
    assert pipeline.raw("select id from raw_shop.orders") == [(1,)]
    assert ledger.last_mark(pipeline.warehouse, pipeline.spec()) == before


def test_a_window_before_the_first_load_does_not_hide_the_rest(pipeline: Pipeline) -> None:
    insert(pipeline, 1, at="'2026-01-10 12:00+00'")
    insert(pipeline, 2, at="'2025-01-01 00:00+00'")
    start = datetime(2026, 1, 10, tzinfo=UTC)
    pipeline.run(pipeline.spec(), window=Window("window", start, start + DAY, None))
    assert pipeline.run(pipeline.spec()).mode == "first"
    pipeline.assert_equal()


def test_an_older_snapshot_never_replaces_a_newer_row(pipeline: Pipeline) -> None:
    """A slow run read first and loads last: what a faster run brought meanwhile stays."""
    spec = pipeline.spec()
    insert(pipeline, 1, 2)
    pipeline.run(spec)
    pipeline.app.execute("update orders set amount = 100 where id = 1")
    slow = pipeline.extract(spec, run_id="slow")
    # The clock of this writer is behind: by updated_at alone the newer version would look older.
    pipeline.app.execute("update orders set amount = 200, updated_at = updated_at - interval '1 second' where id = 1")
    pipeline.app.execute("update orders set amount = 300, updated_at = now() where id = 2")
    pipeline.beside().run(spec, run_id="fast")
    result = pipeline.load(spec, slow)
    assert result.rows_updated == 0
    pipeline.assert_equal()


def test_an_older_snapshot_does_not_bring_back_what_a_newer_one_found_as_raw_has_it(pipeline: Pipeline) -> None:
    """Changed and restored, cursor included: the newer load has nothing to write, and so leaves no stamp on the row."""
    spec = pipeline.spec()
    insert(pipeline, 1)
    pipeline.run(spec)
    was = pipeline.app.execute("select amount, updated_at from orders").fetchone()
    pipeline.app.execute("update orders set amount = 7, updated_at = now()")
    slow = pipeline.extract(spec, run_id="slow")
    pipeline.app.execute("update orders set amount = %s, updated_at = %s", was)
    assert pipeline.beside().run(spec, run_id="fast").rows_updated == 0
    assert pipeline.load(spec, slow).rows_updated == 0
    pipeline.assert_equal()


def test_an_older_snapshot_does_not_replace_a_table_without_a_key(pipeline: Pipeline) -> None:
    spec = pipeline.spec(mode="full", key=[], cursor=None)
    insert(pipeline, 1)
    pipeline.run(spec)
    slow = pipeline.extract(spec, run_id="slow")
    insert(pipeline, 2)
    pipeline.beside().run(spec, run_id="fast")
    pipeline.load(spec, slow)
    pipeline.assert_equal()


def test_a_newer_snapshot_replaces_what_an_older_one_loaded_first(pipeline: Pipeline) -> None:
    spec = pipeline.spec()
    insert(pipeline, 1)
    pipeline.run(spec)
    old = pipeline.extract(spec, run_id="old")
    pipeline.app.execute("update orders set amount = 7")
    new = pipeline.beside().extract(spec, run_id="new")
    pipeline.load(spec, old)
    pipeline.load(spec, new)
    pipeline.assert_equal()


def test_a_zombie_whose_retry_has_loaded_is_refused(pipeline: Pipeline) -> None:
    spec = pipeline.spec()
    insert(pipeline, 1)
    zombie = pipeline.extract(spec, run_id="r1")
    pipeline.run(spec, run_id="r1")
    with pytest.raises(TerminalError, match="later attempt of run r1 has already loaded"):
        pipeline.load(spec, zombie)


def test_a_zombie_cannot_stage_after_its_retry_cleaned_up(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = pipeline.spec()
    insert(pipeline, 1)
    pipeline.run(spec)
    retry, claim = pipeline.beside(), extractions.claim

    def clean_up(*args: Any) -> Any:
        extractions.discard_leftovers(retry.warehouse, spec, lambda run_id: run_id == "r1")
        return claim(*args)

    monkeypatch.setattr(extractions, "claim", clean_up)
    with pytest.raises(TerminalError, match="a later attempt has taken over"):
        pipeline.extract(spec, run_id="r1")
    assert staging_tables(pipeline) == []


def test_what_an_attempt_is_at_is_left_alone(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hangs keeps its locks: it must not hold up the next run, which removes what it staged later."""
    spec = pipeline.spec()
    insert(pipeline, 1)
    other = pipeline.beside()

    with monkeypatch.context() as patch:

        def next_run(*_: object) -> None:
            patch.undo()
            extractions.discard_leftovers(other.warehouse, spec, lambda run_id: run_id == "hangs")
            other.run(spec, run_id="next")

        patch.setattr(extractions, "record", next_run)
        pipeline.extract(spec, run_id="hangs")
    assert len(staging_tables(pipeline)) == 1
    extractions.discard_leftovers(pipeline.warehouse, spec, lambda run_id: run_id == "hangs")
    assert staging_tables(pipeline) == []


def test_loading_the_same_batch_twice_changes_nothing(pipeline: Pipeline) -> None:
    insert(pipeline, 1)
    batch = pipeline.extract(pipeline.spec())
    first = pipeline.load(pipeline.spec(), batch)
    assert pipeline.load(pipeline.spec(), batch) == first
    assert pipeline.raw("select count(*) from _elt.load_ledger") == [(1,)]


def test_a_load_that_dies_before_its_commit_leaves_everything_as_it_was(pipeline: Pipeline, monkeypatch) -> None:
    spec = pipeline.spec()
    insert(pipeline, 1)
    pipeline.run(spec)
    insert(pipeline, 2)
    batch = pipeline.extract(spec)
    with monkeypatch.context() as patch:
        patch.setattr("include.load.publish._record", lambda *_: pipeline.warehouse.close())
        with pytest.raises(psycopg.Error):
            pipeline.load(spec, batch)
    pipeline.warehouse = pipeline.connect_warehouse()
    assert pipeline.raw("select id from raw_shop.orders") == [(1,)]
    assert pipeline.raw("select count(*) from _elt.load_ledger") == [(1,)]
    pipeline.load(spec, batch)
    pipeline.assert_equal()


def test_a_source_that_is_cut_in_mid_stream_stages_nothing(pipeline: Pipeline) -> None:
    pipeline.app.execute("insert into orders select n, n from generate_series(1, 200000) n")
    pid = pipeline.source.info.backend_pid
    killer = psycopg.connect(pipeline.source_dsn, autocommit=True)
    pipeline.app.execute(
        "create function slow(n bigint) returns numeric language plpgsql as $$ begin "
        "if n = 150000 then perform pg_sleep(60); end if; return n; end $$"
    )
    pipeline.app.execute("create view slow_orders as select id, public.slow(id) amount, updated_at from orders")
    import threading

    timer = threading.Thread(target=_terminate_when_sleeping, args=(killer, pid))
    timer.start()
    with pytest.raises(psycopg.OperationalError):
        pipeline.extract(pipeline.spec("slow_orders"))
    timer.join()
    assert staging_tables(pipeline) == []
    assert pipeline.raw("select count(*) from _elt.load_ledger") == [(0,)]


def _terminate_when_sleeping(killer: psycopg.Connection, pid: int) -> None:
    waits = "select wait_event = 'PgSleep' from pg_stat_activity where pid = %s"
    while killer.execute(waits, (pid,)).fetchone() != (True,):
        pass
    killer.execute("select pg_terminate_backend(%s)", (pid,))


def test_a_read_that_is_refused_says_why_and_leaves_the_session_at_rest(pipeline: Pipeline) -> None:
    spec, horizon = pipeline.spec(), pipeline.horizon()
    pipeline.app.execute(
        "drop role if exists hidden_from; create role hidden_from; grant select on orders to hidden_from"
    )
    pipeline.app.execute("alter table orders enable row level security")
    pipeline.source.execute("set role hidden_from")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        pipeline.extract(spec, horizon=horizon)
    assert pipeline.source.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    pipeline.app.execute("drop owned by hidden_from; drop role hidden_from")


def test_what_is_staged_survives_a_crash_whatever_the_servers_default(pipeline: Pipeline) -> None:
    database = sql.Identifier(pipeline.warehouse.info.dbname)
    pipeline.warehouse.execute(sql.SQL("alter database {} set synchronous_commit = off").format(database))
    assert pipeline.beside().raw("show synchronous_commit") == [("on",)]


def test_a_batch_that_lost_rows_is_refused(pipeline: Pipeline) -> None:
    insert(pipeline, 1, 2)
    batch = pipeline.extract(pipeline.spec())
    pipeline.warehouse.execute("update _elt.extraction_range set rows_extracted = 1")
    with pytest.raises(TerminalError, match="1 of 2 rows staged .* clear the table's extract task"):
        pipeline.load(pipeline.spec(), batch)


def test_leftovers_of_dead_runs_are_removed(pipeline: Pipeline) -> None:
    spec = pipeline.spec()
    insert(pipeline, 1)
    pipeline.extract(spec, run_id="dead")
    alive = pipeline.extract(spec, run_id="alive")
    extractions.discard_leftovers(pipeline.warehouse, spec, lambda run_id: run_id == "dead")
    assert staging_tables(pipeline) == [f"staging_{alive.extraction_id}"]


def staging_tables(pipeline: Pipeline) -> list[str]:
    query = "select relname from pg_class where relnamespace = '_elt'::regnamespace and relname like 'staging%'"
    return [row[0] for row in pipeline.raw(query)]


def test_a_slice_does_not_take_the_place_of_a_dropped_raw_table(pipeline: Pipeline) -> None:
    insert(pipeline, 1, at="now() - interval '1 day'")
    pipeline.run(pipeline.spec())
    batch = pipeline.extract(pipeline.spec())
    pipeline.warehouse.execute("drop table raw_shop.orders")
    with pytest.raises(TerminalError, match="was dropped after this was read"):
        pipeline.load(pipeline.spec(), batch)


def test_an_older_first_load_does_not_take_the_place_of_a_dropped_raw_table(pipeline: Pipeline) -> None:
    spec = pipeline.spec()
    insert(pipeline, 1)
    older = pipeline.extract(spec, run_id="older")
    insert(pipeline, 2)
    pipeline.load(spec, pipeline.extract(spec, run_id="newer"))
    pipeline.warehouse.execute("drop table raw_shop.orders")
    with pytest.raises(TerminalError, match="was dropped after this was read"):
        pipeline.load(spec, older)


def test_full_mode_marks_rows_that_are_gone_and_brings_them_back(pipeline: Pipeline) -> None:
    spec = pipeline.spec(mode="full", deletes="soft", cursor=None)
    insert(pipeline, 1, 2)
    pipeline.run(spec)
    pipeline.app.execute("delete from orders where id = 1")
    assert pipeline.run(spec).rows_deleted == 1
    assert pipeline.raw("select id from raw_shop.orders where _deleted_at is not null") == [(1,)]
    insert(pipeline, 1)
    assert pipeline.run(spec).rows_updated == 1
    pipeline.assert_equal()


def test_a_table_without_a_key_is_replaced_whole(pipeline: Pipeline) -> None:
    pipeline.app.execute("create table events (what text)")
    pipeline.app.execute("insert into events values ('a'), ('a'), ('b')")
    spec = pipeline.spec("events", mode="full", key=[], cursor=None)
    pipeline.run(spec)
    pipeline.app.execute("delete from events where what = 'b'")
    assert pipeline.run(spec).rows_deleted == 3
    pipeline.assert_equal("what", "events")


def test_append_mode_never_updates(pipeline: Pipeline) -> None:
    spec = pipeline.spec(mode="append")
    insert(pipeline, 1)
    pipeline.run(spec)
    pipeline.app.execute("update orders set amount = 5")
    insert(pipeline, 2)
    result = pipeline.run(spec)
    assert (result.rows_inserted, result.rows_updated) == (1, 0)


def test_a_new_column_is_added_to_raw(pipeline: Pipeline) -> None:
    insert(pipeline, 1)
    pipeline.run(pipeline.spec())
    pipeline.app.execute("alter table orders add column note text")
    pipeline.app.execute("update orders set note = 'a' , updated_at = now()")
    pipeline.run(pipeline.spec())
    pipeline.assert_equal("id, amount, note")


def test_a_dropped_column_stays_and_is_null_for_changed_rows(pipeline: Pipeline) -> None:
    insert(pipeline, 1, 2)
    pipeline.run(pipeline.spec())
    pipeline.app.execute("alter table orders drop column amount")
    pipeline.app.execute("update orders set updated_at = now() where id = 1")
    pipeline.run(pipeline.spec())
    assert pipeline.raw("select id, amount::text from raw_shop.orders order by id") == [(1, None), (2, "2.50")]


def test_a_changed_type_stops_the_table_with_the_ddl_to_run(pipeline: Pipeline) -> None:
    pipeline.run(pipeline.spec())
    pipeline.app.execute("alter table orders alter amount type double precision")
    with pytest.raises(DriftError, match='alter column "amount" type double precision'):
        pipeline.extract(pipeline.spec())
    assert staging_tables(pipeline) == []


def test_a_key_that_is_not_unique_is_named(pipeline: Pipeline) -> None:
    pipeline.app.execute("insert into orders values (1, 5), (2, 5)")
    with pytest.raises(TerminalError, match=r"key \['amount'\] is not unique"):
        pipeline.run(pipeline.spec(key=["amount"]))


def test_a_key_with_nulls_is_named(pipeline: Pipeline) -> None:
    pipeline.app.execute("insert into orders values (1, null)")
    with pytest.raises(TerminalError, match="key column 'amount' holds NULL"):
        pipeline.run(pipeline.spec(key=["amount"]))


def test_null_cursors_are_refused_or_always_read(pipeline: Pipeline) -> None:
    pipeline.app.execute("alter table orders alter updated_at drop not null")
    insert(pipeline, 1)
    pipeline.run(pipeline.spec())
    pipeline.app.execute("insert into orders values (2, 2, null)")
    with pytest.raises(TerminalError, match="null_cursor: always"):
        pipeline.extract(pipeline.spec())
    pipeline.run(pipeline.spec(null_cursor="always"))
    pipeline.assert_equal()


def test_a_cursor_without_a_zone_needs_one_declared(pipeline: Pipeline) -> None:
    pipeline.app.execute("alter table orders alter updated_at type timestamp")
    with pytest.raises(ConfigError, match="cursor_zone"):
        pipeline.extract(pipeline.spec())
    spec = pipeline.spec(cursor_zone="Europe/Berlin", overlap="1 hour")
    now_there = "now() at time zone 'Europe/Berlin'"
    pipeline.app.execute(f"insert into orders values (1, 1, {now_there} - interval '3 hours')")
    pipeline.run(spec)
    pipeline.app.execute(f"insert into orders values (2, 2, {now_there})")
    assert pipeline.run(spec).rows_extracted == 1
    pipeline.assert_equal()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("drop table orders", "does not exist in database"),
        ("alter table orders rename updated_at to changed", "column 'updated_at' does not exist"),
        ("alter table orders alter updated_at type date", "only timestamps work"),
        ("alter table orders add _run_id text", "a name that loading adds"),
        ("create type mood as enum ('x'); alter table orders add m mood", "the warehouse has no type public.mood"),
    ],
)
def test_a_table_that_is_not_as_declared_is_refused_before_any_write(
    pipeline: Pipeline, change: str, message: str
) -> None:
    pipeline.app.execute(change)
    with pytest.raises(TerminalError, match=message):
        pipeline.extract(pipeline.spec())
    assert pipeline.raw("select count(*) from _elt.extraction") == [(0,)]


def test_a_truncate_while_the_table_is_read_does_not_empty_the_snapshot(pipeline: Pipeline) -> None:
    """Without the lock before the snapshot, the read would find no row, and the mark would pass them."""
    insert(pipeline, 1)
    pipeline.app.execute("set lock_timeout = '100ms'")
    from include.extract.table import take_snapshot
    from include.sessions import snapshot

    with snapshot(pipeline.source):
        take_snapshot(pipeline.source, pipeline.spec())
        with pytest.raises(psycopg.errors.LockNotAvailable):
            pipeline.app.execute("truncate orders")


def test_a_truncate_that_commits_while_the_lock_is_waited_for_is_seen_whole(pipeline: Pipeline) -> None:
    """A snapshot taken before the lock would show neither the old rows nor the new ones."""
    insert(pipeline, 1, 2)
    waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and pid = %s"
    with psycopg.connect(pipeline.source_dsn) as writer, ThreadPoolExecutor(1) as beside:
        writer.execute("truncate orders; insert into orders values (3, 3, now() - interval '9 days')")
        batch = beside.submit(pipeline.extract, pipeline.spec())
        while pipeline.app.execute(waiting, (pipeline.source.info.backend_pid,)).fetchone() is None:
            assert not batch.done()
        writer.commit()
        assert batch.result().rows_extracted == 1
    pipeline.load(pipeline.spec(), batch.result())
    pipeline.assert_equal()


def test_a_prepared_transaction_lets_rows_land_and_holds_the_mark(pipeline: Pipeline) -> None:
    first = pipeline.run(pipeline.spec())
    with psycopg.connect(pipeline.source_dsn) as writer:
        writer.execute("insert into orders values (1, 1)")
        writer.execute("prepare transaction 'p1'")
    insert(pipeline, 2)
    assert pipeline.run(pipeline.spec()).mark == first.mark
    pipeline.app.execute("commit prepared 'p1'")
    pipeline.run(pipeline.spec())
    pipeline.assert_equal()


def test_a_role_that_cannot_see_other_sessions_is_refused_with_the_grant(pipeline: Pipeline) -> None:
    pipeline.app.execute("drop role if exists blind")
    pipeline.app.execute("create role blind")
    pipeline.source.execute("set role blind")
    with pytest.raises(TerminalError, match="grant pg_read_all_stats to"):
        pipeline.horizon()


def test_the_ledger_survives_a_lowered_variable(pipeline: Pipeline) -> None:
    insert(pipeline, 1, at="'2026-01-01 00:00+00'")
    spec = pipeline.spec()
    first = pipeline.run(spec)
    ledger.mark_published(pipeline.warehouse, spec)
    pipeline.warehouse.execute("update raw_shop.orders set amount = 0")
    result = pipeline.run(spec, variable="2025-12-01T00:00:00+00:00")
    assert result.rows_updated == 1 and result.mark > first.mark
    pipeline.assert_equal()


def test_marks_keep_six_digits(pipeline: Pipeline) -> None:
    result = pipeline.run(pipeline.spec())
    last = ledger.last_mark(pipeline.warehouse, pipeline.spec())
    assert last is not None and last.mark == result.mark
    assert watermark.parse(pipeline.spec(), "2026-01-01T00:00:00.000001+00:00", last.mark).microsecond == 1


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
