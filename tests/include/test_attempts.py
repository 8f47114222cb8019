"""Attempts that die, hang, come twice or too late: raw is as if each run had worked once, in the order of snapshots."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import sql

from include.errors import TerminalError
from include.state import extractions, ledger
from tests.include.conftest import Pipeline


def test_loading_the_same_batch_twice_changes_nothing(pipeline: Pipeline) -> None:
    pipeline.insert(1)
    batch = pipeline.extract(pipeline.spec())
    first = pipeline.load(pipeline.spec(), batch)
    assert pipeline.load(pipeline.spec(), batch) == first
    assert pipeline.raw("select count(*) from _elt.load_ledger") == [(1,)]


def test_a_load_that_dies_before_its_commit_leaves_everything_as_it_was(pipeline: Pipeline, monkeypatch) -> None:
    spec = pipeline.spec()
    pipeline.insert(1)
    pipeline.run(spec)
    pipeline.insert(2)
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


def test_what_is_staged_survives_a_crash_whatever_the_servers_default(pipeline: Pipeline) -> None:
    database = sql.Identifier(pipeline.warehouse.info.dbname)
    pipeline.warehouse.execute(sql.SQL("alter database {} set synchronous_commit = off").format(database))
    assert pipeline.beside().raw("show synchronous_commit") == [("on",)]


def test_a_batch_that_lost_rows_is_refused(pipeline: Pipeline) -> None:
    pipeline.insert(1, 2)
    batch = pipeline.extract(pipeline.spec())
    pipeline.warehouse.execute("update _elt.extraction_range set rows_extracted = 1")
    with pytest.raises(TerminalError, match="1 of 2 rows staged .* clear the table's extract task"):
        pipeline.load(pipeline.spec(), batch)


def test_an_older_snapshot_never_replaces_a_newer_row(pipeline: Pipeline) -> None:
    """A slow run read first and loads last: what a faster run brought meanwhile stays."""
    spec = pipeline.spec()
    pipeline.insert(1, 2)
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


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_a_load_that_waited_for_a_newer_one_sees_it_whatever_the_servers_default(
    pipeline: Pipeline, isolation: str
) -> None:
    """A snapshot older than the table's lock lacks what its holder loaded; who wrote no row causes no conflict."""
    database = sql.Identifier(pipeline.warehouse.info.dbname)
    alter = sql.SQL("alter database {} set default_transaction_isolation = {}")
    pipeline.warehouse.execute(alter.format(database, isolation))
    slow, fast = pipeline.beside(), pipeline.beside()
    spec = pipeline.spec()
    pipeline.insert(1)
    slow.run(spec)
    was = pipeline.app.execute("select amount, updated_at from orders").fetchone()
    pipeline.app.execute("update orders set amount = 7, updated_at = now()")
    old = slow.extract(spec, run_id="slow")
    pipeline.app.execute("update orders set amount = %s, updated_at = %s", was)
    new = fast.extract(spec, run_id="fast")
    waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and pid = %s"
    with ThreadPoolExecutor(1) as beside:
        with fast.warehouse.transaction():
            fast.load(spec, new)
            result = beside.submit(slow.load, spec, old)
            while not pipeline.warehouse.execute(waiting, (slow.warehouse.info.backend_pid,)).fetchone():
                assert not result.done()
        assert result.result().rows_updated == 0
    pipeline.assert_equal()


def test_an_older_snapshot_does_not_bring_back_what_a_newer_one_found_as_raw_has_it(pipeline: Pipeline) -> None:
    """Changed and restored, cursor included: the newer load has nothing to write, and so leaves no stamp on the row."""
    spec = pipeline.spec()
    pipeline.insert(1)
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
    pipeline.insert(1)
    pipeline.run(spec)
    slow = pipeline.extract(spec, run_id="slow")
    pipeline.insert(2)
    pipeline.beside().run(spec, run_id="fast")
    pipeline.load(spec, slow)
    pipeline.assert_equal()


def test_a_newer_snapshot_replaces_what_an_older_one_loaded_first(pipeline: Pipeline) -> None:
    spec = pipeline.spec()
    pipeline.insert(1)
    pipeline.run(spec)
    old = pipeline.extract(spec, run_id="old")
    pipeline.app.execute("update orders set amount = 7")
    new = pipeline.beside().extract(spec, run_id="new")
    pipeline.load(spec, old)
    pipeline.load(spec, new)
    pipeline.assert_equal()


def test_a_zombie_whose_retry_has_loaded_is_refused(pipeline: Pipeline) -> None:
    spec = pipeline.spec()
    pipeline.insert(1)
    zombie = pipeline.extract(spec, run_id="r1")
    pipeline.run(spec, run_id="r1")
    with pytest.raises(TerminalError, match="later attempt of run r1 has already loaded"):
        pipeline.load(spec, zombie)


def test_a_zombie_cannot_stage_after_its_retry_cleaned_up(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = pipeline.spec()
    pipeline.insert(1)
    pipeline.run(spec)
    retry, claim = pipeline.beside(), extractions.claim

    def clean_up(*args: Any) -> Any:
        extractions.discard_leftovers(retry.warehouse, spec, lambda run_id: run_id == "r1")
        return claim(*args)

    monkeypatch.setattr(extractions, "claim", clean_up)
    with pytest.raises(TerminalError, match="a later attempt has taken over"):
        pipeline.extract(spec, run_id="r1")
    assert pipeline.staging_tables() == []


def test_what_an_attempt_is_at_is_left_alone(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hangs keeps its locks: it must not hold up the next run, which removes what it staged later."""
    spec = pipeline.spec()
    pipeline.insert(1)
    other = pipeline.beside()

    with monkeypatch.context() as patch:

        def next_run(*_: object) -> None:
            patch.undo()
            extractions.discard_leftovers(other.warehouse, spec, lambda run_id: run_id == "hangs")
            other.run(spec, run_id="next")

        patch.setattr(extractions, "record", next_run)
        pipeline.extract(spec, run_id="hangs")
    assert len(pipeline.staging_tables()) == 1
    extractions.discard_leftovers(pipeline.warehouse, spec, lambda run_id: run_id == "hangs")
    assert pipeline.staging_tables() == []


def test_leftovers_of_dead_runs_are_removed(pipeline: Pipeline) -> None:
    spec = pipeline.spec()
    pipeline.insert(1)
    pipeline.extract(spec, run_id="dead")
    alive = pipeline.extract(spec, run_id="alive")
    extractions.discard_leftovers(pipeline.warehouse, spec, lambda run_id: run_id == "dead")
    assert pipeline.staging_tables() == [f"staging_{alive.extraction_id}"]


def test_a_slice_does_not_take_the_place_of_a_dropped_raw_table(pipeline: Pipeline) -> None:
    pipeline.insert(1, at="now() - interval '1 day'")
    pipeline.run(pipeline.spec())
    batch = pipeline.extract(pipeline.spec())
    pipeline.warehouse.execute("drop table raw_shop.orders")
    with pytest.raises(TerminalError, match="was dropped or emptied after this was read"):
        pipeline.load(pipeline.spec(), batch)


def test_an_older_first_load_does_not_take_the_place_of_a_dropped_raw_table(pipeline: Pipeline) -> None:
    spec = pipeline.spec()
    pipeline.insert(1)
    older = pipeline.extract(spec, run_id="older")
    pipeline.insert(2)
    pipeline.load(spec, pipeline.extract(spec, run_id="newer"))
    pipeline.warehouse.execute("drop table raw_shop.orders")
    with pytest.raises(TerminalError, match="was dropped or emptied after this was read"):
        pipeline.load(spec, older)


def test_what_was_read_before_raw_was_emptied_does_not_stand_for_all_of_it(pipeline: Pipeline) -> None:
    spec = pipeline.spec()
    pipeline.insert(1, at="'2026-01-01'")
    pipeline.run(spec)
    pipeline.insert(2)
    batch = pipeline.extract(spec, run_id="next")
    pipeline.warehouse.execute("truncate raw_shop.orders")
    with pytest.raises(TerminalError, match="was dropped or emptied after this was read"):
        pipeline.load(spec, batch)
    pipeline.run(spec, run_id="next")
    pipeline.assert_equal()


def test_the_first_load_takes_the_place_of_a_dropped_raw_table_whatever_the_mark(pipeline: Pipeline) -> None:
    """A clock that was ahead left a mark in the future: no later one reached it, and the table stood still."""
    pipeline.insert(1)
    pipeline.run(pipeline.spec())
    pipeline.warehouse.execute(
        "update _elt.load_ledger set mark = mark + interval '30 days'; drop table raw_shop.orders"
    )
    pipeline.run(pipeline.spec())
    pipeline.assert_equal()


def test_snapshot_numbers_that_went_back_are_not_taken_for_an_order(pipeline: Pipeline) -> None:
    """A standby that took over had not received everything: its transaction numbers are lower."""
    spec = pipeline.spec()
    pipeline.insert(1)
    before = pipeline.extract(spec, run_id="before")
    pipeline.app.execute("update orders set amount = 7, updated_at = now()")
    after = pipeline.extract(spec, run_id="after")
    lower = before.snapshot_xmax - 1
    note = "update _elt.extraction_range set snapshot_xmax = %s where extraction_id = %s"
    pipeline.warehouse.execute(note, (lower, after.extraction_id))
    pipeline.load(spec, before)
    with pytest.raises(TerminalError, match="as after a failover or restore; clear the table's extract task"):
        pipeline.load(spec, replace(after, snapshot_xmax=lower))
    pipeline.run(spec, run_id="after")
    pipeline.assert_equal()


def test_the_older_of_two_numberings_is_not_taken_for_the_newer(pipeline: Pipeline) -> None:
    """The other way round: what was read before the source went back must not replace what was read after it."""
    spec = pipeline.spec()
    pipeline.insert(1)
    before = pipeline.extract(spec, run_id="before")
    pipeline.app.execute("update orders set amount = 7, updated_at = now()")
    pipeline.run(spec, run_id="after")
    pipeline.warehouse.execute("update _elt.load_ledger set snapshot_xmax = 3, oldest_xmax = 3")
    with pytest.raises(TerminalError, match="as after a failover or restore"):
        pipeline.load(spec, before)
    pipeline.assert_equal()


def test_two_reads_of_an_idle_source_contradict_no_clock(pipeline: Pipeline) -> None:
    """Their snapshots are one and the same: neither is newer, whichever the clock says came first."""
    spec = pipeline.spec()
    pipeline.insert(1)
    first, second = (pipeline.extract(spec, run_id=run_id) for run_id in ("first", "second"))
    pipeline.load(spec, replace(second, snapshot_xmax=first.snapshot_xmax))  # both servers are one here, and not idle
    pipeline.load(spec, first)
    pipeline.assert_equal()


def test_a_number_drawn_again_after_a_restore_is_another_extraction(pipeline: Pipeline) -> None:
    """A restored warehouse has forgotten the newest extraction, and gives its number to another table's."""
    pipeline.app.execute("create table customers (id bigint primary key, updated_at timestamptz default now())")
    orders, customers = pipeline.spec(), pipeline.spec("customers")
    pipeline.insert(1)
    pipeline.run(orders)
    pipeline.insert(2)
    [part] = pipeline.cut(orders, run_id="r")
    batch = pipeline.read(orders, part)
    pipeline.warehouse.execute(
        f"drop table _elt.staging_{part.extraction_id}; delete from _elt.extraction;"
        f"alter sequence _elt.extraction_extraction_id_seq restart with {part.extraction_id}"
    )
    other = pipeline.extract(customers, run_id="r")
    assert other.extraction_id == part.extraction_id
    with pytest.raises(TerminalError, match="clear its extract task"):
        pipeline.read(orders, part)
    with pytest.raises(TerminalError, match="nothing staged for run r"):
        pipeline.load(orders, batch)
    pipeline.load(customers, other)
    with pytest.raises(TerminalError, match="nothing staged for run r"):
        pipeline.load(orders, batch)


def test_numbers_go_on_from_the_ledgers_rows_where_these_came_without_their_sequences(pipeline: Pipeline) -> None:
    """Logical replication brings rows alone. Where old ones were deleted, the newest load counted as the oldest."""
    spec = pipeline.spec(overlap="0.001 seconds")
    pipeline.insert(1)
    for _ in range(4):
        pipeline.run(spec)
    pipeline.warehouse.execute(
        "delete from _elt.load_ledger where load_id < 4;"
        "alter sequence _elt.load_ledger_load_id_seq restart; alter sequence _elt.extraction_extraction_id_seq restart"
    )
    pipeline.app.execute("update orders set amount = 7, updated_at = now()")
    old = pipeline.extract(spec, run_id="slow")
    pipeline.app.execute("update orders set amount = 8, updated_at = now()")
    pipeline.load(spec, pipeline.beside().extract(spec, run_id="fast"))
    pipeline.load(spec, old)
    pipeline.assert_equal()
    assert pipeline.raw("select load_id, extraction_id from _elt.load_ledger order by 1") == [(4, 4), (5, 6), (6, 5)]


@pytest.mark.parametrize("table", ["load_ledger", "extraction", "extraction_range"])
def test_a_table_of_the_ledger_that_was_dropped_alone_is_made_again(pipeline: Pipeline, table: str) -> None:
    spec = pipeline.spec()
    pipeline.insert(1)
    pipeline.run(spec)
    pipeline.extract(spec)
    pipeline.warehouse.execute(f"drop table _elt.{table} cascade")
    pipeline.app.execute("update orders set amount = 7, updated_at = now()")
    pipeline.run(spec)
    pipeline.assert_equal()
    key = "select confdeltype from pg_constraint where conrelid = '_elt.extraction_range'::regclass and contype = 'f'"
    assert pipeline.raw(key) == [("c",)]


def test_the_ledger_survives_a_lowered_variable(pipeline: Pipeline) -> None:
    pipeline.insert(1, at="'2026-01-01 00:00+00'")
    spec = pipeline.spec()
    first = pipeline.run(spec)
    ledger.mark_published(pipeline.warehouse, spec)
    pipeline.warehouse.execute("update raw_shop.orders set amount = 0")
    result = pipeline.run(spec, variable="2025-12-01T00:00:00+00:00")
    assert result.rows_updated == 1 and first.mark and result.mark and result.mark > first.mark
    pipeline.assert_equal()


def test_who_holds_a_tables_lock_and_is_frozen_loses_it_in_minutes(pipeline: Pipeline) -> None:
    """The limit of a session that waits for the other server is an hour."""
    limit = "show idle_in_transaction_session_timeout"
    with pipeline.warehouse.transaction():
        ledger.lock(pipeline.warehouse, "shop.orders")
        assert pipeline.raw(limit) == [("5min",)]
    assert pipeline.raw(limit) == [("1h",)]


def test_what_a_killed_process_staged_is_dropped_whatever_airflow_says_of_its_run(pipeline: Pipeline) -> None:
    """`airflow dags test` carries out all of a run: killed, the run is `running` for ever, or its metadata are lost."""
    spec = pipeline.spec()
    pipeline.insert(1)
    pipeline.run(spec)
    owner = pipeline.connect_warehouse()
    extractions.own(owner, "test_run")
    batch = pipeline.extract(spec, run_id="test_run")
    others = pipeline.extract(spec, run_id="of_another_airflow")
    extractions.discard_leftovers(pipeline.warehouse, spec, lambda _: False)
    assert len(pipeline.staging_tables()) == 2, "either may still be loaded"
    owner.close()
    while len(pipeline.staging_tables()) == 2:  # until the server has noticed
        extractions.discard_leftovers(pipeline.warehouse, spec, lambda _: False)
    assert pipeline.staging_tables() == [f"staging_{others.extraction_id}"]
    with pytest.raises(TerminalError, match="nothing staged"):
        pipeline.load(spec, batch)
    pipeline.load(spec, others)
    pipeline.assert_equal()


@pytest.mark.parametrize(("days", "left"), [(6, 1), (8, 0)])
def test_what_nobody_has_loaded_for_a_week_is_dropped(pipeline: Pipeline, days: int, left: int) -> None:
    """By then a run that this Airflow does not know, whose retries may be to come, has ended in any."""
    pipeline.insert(1)
    ledger.ensure(pipeline.warehouse, pipeline.spec().raw_schema)
    pipeline.extract(pipeline.spec(), run_id="unknown")
    for table, column in (("extraction", "started_at"), ("extraction_range", "staged_at")):
        pipeline.warehouse.execute(f"update _elt.{table} set {column} = {column} - interval '{days} days'")
    extractions.discard_leftovers(pipeline.warehouse, pipeline.spec(), lambda _: False)
    assert len(pipeline.staging_tables()) == left
