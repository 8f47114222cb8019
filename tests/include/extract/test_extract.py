"""What a run reads of a source and how far its mark moves; what is refused before anything is staged."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from include.errors import ConfigError, TerminalError
from include.extract.table import take_snapshot
from include.postgres.sessions import snapshot
from include.state import ledger, watermark
from include.state.messages import Window
from tests.include.conftest import Pipeline

DAY = timedelta(days=1)


def test_a_row_that_commits_after_the_run_is_not_lost(pipeline: Pipeline) -> None:
    """A cursor at max(updated_at) loses the late row: it carries an older stamp than one already loaded."""
    late = psycopg.connect(pipeline.source_dsn)
    late.execute("insert into orders values (1, 1)")
    late.execute("select pg_sleep(0.01)")
    pipeline.insert(2)
    spec = pipeline.spec(overlap="0.001 seconds")
    pipeline.run(spec)
    late.commit()
    pipeline.run(spec)
    pipeline.assert_equal()


def test_the_mark_waits_for_the_oldest_transaction(pipeline: Pipeline) -> None:
    idle = psycopg.connect(pipeline.source_dsn)
    started = idle.execute("select now()").fetchone()
    pipeline.insert(1)
    result = pipeline.run(pipeline.spec())
    assert started is not None and result.mark == started[0]
    pipeline.assert_equal()
    idle.close()


def test_the_mark_never_goes_back(pipeline: Pipeline) -> None:
    pipeline.insert(9)
    first = pipeline.run(pipeline.spec())
    assert first.mark
    behind = replace(pipeline.horizon(), at=first.mark - DAY)
    assert pipeline.run(pipeline.spec(), horizon=behind).mark == first.mark
    last = ledger.last_mark(pipeline.warehouse, pipeline.spec())
    assert last is not None and last.horizon == behind.at


def test_after_a_clock_that_stepped_back_rows_are_read_from_the_earlier_horizon(pipeline: Pipeline) -> None:
    spec = pipeline.spec(overlap="0.001 seconds")
    pipeline.insert(9)
    first = pipeline.run(spec)
    assert first.mark
    pipeline.run(spec, horizon=replace(pipeline.horizon(), at=first.mark - DAY))
    pipeline.insert(1, at="now() - interval '6 hours'")
    pipeline.run(spec)
    pipeline.assert_equal()


def test_a_prepared_transaction_lets_rows_land_and_holds_the_mark(pipeline: Pipeline) -> None:
    pipeline.insert(9)
    first = pipeline.run(pipeline.spec())
    with psycopg.connect(pipeline.source_dsn) as writer:
        writer.execute("insert into orders values (1, 1)")
        writer.execute("prepare transaction 'p1'")
    pipeline.insert(2)
    assert pipeline.run(pipeline.spec()).mark == first.mark
    pipeline.app.execute("commit prepared 'p1'")
    pipeline.run(pipeline.spec())
    pipeline.assert_equal()


def test_marks_keep_six_digits(pipeline: Pipeline) -> None:
    result = pipeline.run(pipeline.spec())
    last = ledger.last_mark(pipeline.warehouse, pipeline.spec())
    assert last is not None and last.mark == result.mark
    assert watermark.parse(pipeline.spec(), "2026-01-01T00:00:00.000001+00:00", last.mark).microsecond == 1


def test_a_window_reads_half_open_and_moves_no_mark(pipeline: Pipeline) -> None:
    pipeline.insert(9)
    pipeline.run(pipeline.spec())
    start = datetime(2026, 1, 10, tzinfo=UTC)
    for number, at in enumerate([start - timedelta(microseconds=1), start, start + DAY]):
        pipeline.insert(number, at=f"'{at.isoformat()}'")
    before = ledger.last_mark(pipeline.warehouse, pipeline.spec())
    result = pipeline.run(pipeline.spec(), window=Window("window", start, start + DAY, None))
    assert (result.rows_extracted, result.mark) == (1, None)
    assert pipeline.raw("select id from raw_shop.orders order by id") == [(1,), (9,)]
    assert ledger.last_mark(pipeline.warehouse, pipeline.spec()) == before


def test_a_window_before_the_first_load_does_not_hide_the_rest(pipeline: Pipeline) -> None:
    pipeline.insert(1, at="'2026-01-10 12:00+00'")
    pipeline.insert(2, at="'2025-01-01 00:00+00'")
    start = datetime(2026, 1, 10, tzinfo=UTC)
    pipeline.run(pipeline.spec(), window=Window("window", start, start + DAY, None))
    assert pipeline.run(pipeline.spec()).mode == "first"
    pipeline.assert_equal()


def test_null_cursors_are_refused_or_always_read(pipeline: Pipeline) -> None:
    pipeline.app.execute("alter table orders alter updated_at drop not null")
    pipeline.insert(1)
    pipeline.run(pipeline.spec())
    pipeline.app.execute("insert into orders values (2, 2, null)")
    with pytest.raises(TerminalError, match="null_cursor: always"):
        pipeline.extract(pipeline.spec())
    pipeline.run(pipeline.spec(null_cursor="always"))
    pipeline.assert_equal()


def test_a_table_that_is_read_whole_needs_no_cursor_in_each_row(pipeline: Pipeline) -> None:
    pipeline.app.execute("alter table orders alter updated_at drop not null; insert into orders values (1, 1, null)")
    for spec in (pipeline.spec(mode="full"), pipeline.spec(mode="full", key=[])):
        pipeline.run(spec)
        pipeline.assert_equal()
        pipeline.warehouse.execute("drop table raw_shop.orders")


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


def test_a_role_that_cannot_see_other_sessions_is_refused_with_the_grant(pipeline: Pipeline) -> None:
    pipeline.app.execute("drop role if exists blind")
    pipeline.app.execute("create role blind")
    pipeline.source.execute("set role blind")
    with pytest.raises(TerminalError, match="grant pg_read_all_stats to"):
        pipeline.horizon()


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


def test_a_truncate_while_the_table_is_read_does_not_empty_the_snapshot(pipeline: Pipeline) -> None:
    """Without the lock before the snapshot, the read would find no row, and the mark would pass them."""
    pipeline.insert(1)
    pipeline.app.execute("set lock_timeout = '100ms'")
    with snapshot(pipeline.source):
        take_snapshot(pipeline.source, pipeline.spec())
        with pytest.raises(psycopg.errors.LockNotAvailable):
            pipeline.app.execute("truncate orders")


def test_a_truncate_that_commits_while_the_lock_is_waited_for_is_seen_whole(pipeline: Pipeline) -> None:
    """A snapshot taken before the lock would show neither the old rows nor the new ones."""
    pipeline.insert(1, 2)
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
        pipeline.extract(pipeline.spec("slow_orders", deletes="soft"))
    timer.join()
    assert pipeline.staging_tables() == []
    assert pipeline.raw("select count(*) from _elt.load_ledger") == [(0,)]


def _terminate_when_sleeping(killer: psycopg.Connection, pid: int) -> None:
    waits = "select wait_event = 'PgSleep' from pg_stat_activity where pid = %s"
    while killer.execute(waits, (pid,)).fetchone() != (True,):
        pass
    killer.execute("select pg_terminate_backend(%s)", (pid,))
