"""Reconcile on real servers: every way in which raw can be wrong is found, named and repaired, and nothing else is."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from include.errors import EmptyError, TerminalError
from include.operate.reconcile import Report, reconcile, repair
from include.sources import TableSpec
from include.state import ledger
from tests.include.conftest import Pipeline

ROWS = 5_000


@pytest.fixture
def spec(pipeline: Pipeline) -> TableSpec:
    """A table of 32 buckets, loaded, all its cursors long past."""
    pipeline.fill(ROWS)
    made = pipeline.spec()
    pipeline.run(made)
    return made


def compare(pipeline: Pipeline, spec: TableSpec) -> Report:
    return reconcile(pipeline.source, pipeline.warehouse, spec)


def counts(report: Report) -> dict[str, int]:
    return {kind: count for kind, count in report.counts.items() if count}


def test_a_table_just_loaded_is_clean(pipeline: Pipeline, spec: TableSpec) -> None:
    report = compare(pipeline, spec)
    assert report.is_clean and report.rows == (ROWS, ROWS) and report.differing.numbers == ()
    assert str(report) == "shop.orders: 5,000 rows in the source, 5,000 in raw; 0 of 32 buckets differ"


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("delete from raw_shop.orders where id in (7, 8)", {"missing": 2}),
        ("update raw_shop.orders set amount = 0 where id = 7", {"differing": 1}),
        ("update raw_shop.orders set amount = 7.0 where id = 7", {"differing": 1}),
        ("update raw_shop.orders set amount = null where id = 7", {"differing": 1}),
        ("update raw_shop.orders set _deleted_at = now() where id = 7", {"missing": 1}),
        ("update raw_shop.orders set id = -7 where id = 7", {"missing": 1, "extra": 1}),
        ("delete from raw_shop.orders", {"missing": ROWS}),
    ],
)
def test_damage_to_raw_is_found_and_repaired(
    pipeline: Pipeline, spec: TableSpec, damage: str, found: dict[str, int]
) -> None:
    pipeline.warehouse.execute(damage)
    mark = ledger.last_mark(pipeline.warehouse, spec)
    report = compare(pipeline, spec)
    assert counts(report) == found and not report.is_clean
    result = repair(pipeline.source, pipeline.warehouse, spec, report, "r1")
    assert result.mode == "repair" and result.rows_inserted + result.rows_updated == sum(found.values()) - found.get(
        "extra", 0
    )
    if sum(found.values()) < ROWS:
        assert result.rows_extracted < ROWS / 5
    assert compare(pipeline, spec).is_clean
    assert ledger.last_mark(pipeline.warehouse, spec) == mark
    if "extra" not in found:
        pipeline.assert_equal()


def test_the_report_names_buckets_and_keys(pipeline: Pipeline, spec: TableSpec) -> None:
    pipeline.warehouse.execute("delete from raw_shop.orders where id = 7")
    text = str(compare(pipeline, spec))
    assert "1 of 32 buckets differ" in text and "1 missing" in text and "(7) in bucket " in text


def test_repair_marks_what_is_gone_where_deletes_are_wanted(pipeline: Pipeline, spec: TableSpec) -> None:
    soft = spec.model_copy(update={"deletes": "soft"})
    pipeline.app.execute("delete from orders where id = 7")
    kept, missed = compare(pipeline, spec), compare(pipeline, soft)
    assert counts(kept) == {"extra": 1} and kept.is_clean and kept.to_repair == set()
    assert "1 extra       in raw, gone from the source: kept, as deletes of this table are not followed: (7)" in str(
        kept
    )
    assert counts(missed) == {"lingering": 1} and not missed.is_clean
    repair(pipeline.source, pipeline.warehouse, soft, compare(pipeline, soft), "r1")
    assert pipeline.raw("select id from raw_shop.orders where _deleted_at is not null") == [(7,)]
    assert counts(compare(pipeline, soft)) == {}


def test_what_changed_since_the_last_load_is_no_difference_yet(pipeline: Pipeline, spec: TableSpec) -> None:
    pipeline.app.execute("insert into orders values (-1, 1)")
    pipeline.app.execute("update orders set amount = 0, updated_at = now() where id = 7")
    report = compare(pipeline, spec)
    assert report.is_clean and counts(report) == {"unsettled": 2} and report.to_repair == set()
    pipeline.run(spec)
    assert counts(compare(pipeline, spec)) == {}


def test_a_row_that_came_in_behind_the_watermark_is_missing(pipeline: Pipeline, spec: TableSpec) -> None:
    """A writer whose clock is behind by more than the overlap: the one loss that is not promised away."""
    pipeline.app.execute("insert into orders values (-1, 1, now() - interval '2 hours')")
    pipeline.run(spec)
    report = compare(pipeline, spec)
    assert counts(report) == {"missing": 1}
    repair(pipeline.source, pipeline.warehouse, spec, report, "r1")
    pipeline.assert_equal()


def test_rows_duplicated_by_hand_are_found_and_the_key_is_asked_for(pipeline: Pipeline, spec: TableSpec) -> None:
    pipeline.warehouse.execute("alter table raw_shop.orders drop constraint orders_pkey")
    pipeline.warehouse.execute("insert into raw_shop.orders select * from raw_shop.orders where id = 7")
    report = compare(pipeline, spec)
    assert counts(report) == {"duplicated": 1} and not report.is_clean
    with pytest.raises(TerminalError) as refused:
        repair(pipeline.source, pipeline.warehouse, spec, report, "r1")
    pipeline.warehouse.execute(str(refused.value).split("then repair: ")[1])
    assert counts(compare(pipeline, spec)) == {}
    pipeline.run(spec)
    pipeline.assert_equal()


def test_a_repair_never_replaces_what_a_newer_load_brought(
    pipeline: Pipeline, spec: TableSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.warehouse.execute("update raw_shop.orders set amount = 0 where id = 7")
    report = compare(pipeline, spec)
    from include.operate import reconcile as module

    def load_late(warehouse, spec, batch):
        pipeline.app.execute("update orders set amount = 70, updated_at = now() where id = 7")
        pipeline.beside().run(spec, run_id="fast")
        return real(warehouse, spec, batch)

    real = module.load_batch
    monkeypatch.setattr(module, "load_batch", load_late)
    assert repair(pipeline.source, pipeline.warehouse, spec, report, "r1").rows_updated == 0
    pipeline.assert_equal()


def test_a_load_that_would_empty_raw_to_an_older_snapshot_waits(
    pipeline: Pipeline, spec: TableSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Widening a column writes all rows anew: who took a snapshot before sees none of them."""
    from include.operate import reconcile as module

    def widen(source, spec):
        load = pipeline.beside().warehouse
        load.execute("set lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            load.execute("alter table raw_shop.orders alter id type numeric")
        return real(source, spec)

    real = module.take_snapshot
    monkeypatch.setattr(module, "take_snapshot", widen)
    assert compare(pipeline, spec).rows == (ROWS, ROWS)


def test_columns_that_raw_does_not_have_yet_are_left_to_the_next_run(pipeline: Pipeline, spec: TableSpec) -> None:
    pipeline.app.execute("alter table orders add note text default 'x'")
    assert compare(pipeline, spec).is_clean
    pipeline.run(spec)
    pipeline.assert_equal("id, amount, updated_at, note")
    assert compare(pipeline, spec).is_clean


def test_columns_left_out_hashed_or_cast_are_compared_as_they_are_extracted(pipeline: Pipeline) -> None:
    pipeline.app.execute("alter table orders add email text, add phone text, add tags int[]")
    pipeline.app.execute(
        "insert into orders values (1, 1, '2026-01-01', 'a@b', '1', '{1}'), (2, 2, '2026-01-01', null, null, null)"
    )
    spec = pipeline.spec(columns={"email": "hash", "phone": "omit", "tags": "text"}, deletes="soft")
    pipeline.run(spec)
    assert counts(compare(pipeline, spec)) == {}
    pipeline.app.execute("update orders set phone = '2'")
    assert counts(compare(pipeline, spec)) == {}
    pipeline.warehouse.execute("update raw_shop.orders set email = 'a@b' where id = 1")
    report = compare(pipeline, spec)
    assert counts(report) == {"differing": 1} and "a@b" not in str(report)
    repair(pipeline.source, pipeline.warehouse, spec, report, "r1")
    assert counts(compare(pipeline, spec)) == {}


def test_a_hashed_key_falls_into_the_same_buckets(pipeline: Pipeline) -> None:
    pipeline.app.execute("create table people (email text primary key, updated_at timestamptz not null)")
    pipeline.app.execute("insert into people select 'p' || n, '2026-01-01' from generate_series(1, 2000) n")
    spec = pipeline.spec("people", key=["email"], columns={"email": "hash"}, deletes="soft")
    pipeline.run(spec)
    assert pipeline.run(spec).rows_extracted == 0
    pipeline.app.execute("delete from people where email = 'p7'")
    assert pipeline.run(spec).rows_deleted == 1
    assert counts(compare(pipeline, spec)) == {}


@pytest.mark.parametrize(
    ("extract", "differing"),
    [
        ({}, "differing"),
        ({"mode": "append"}, "differing"),
        ({"deletes": "soft"}, "differing"),
        ({"mode": "full"}, "differing"),
        ({"mode": "full", "cursor": None}, "unsettled"),
    ],
    ids=str,
)
def test_one_changed_byte_is_found_and_repaired_in_every_mode(
    pipeline: Pipeline, extract: dict[str, Any], differing: str
) -> None:
    """Of an append table keys alone were compared, and a repair left the rest as it was."""
    spec = pipeline.spec(**extract)
    pipeline.app.execute("insert into orders values (1, 1, '2026-01-01'), (2, 2, '2026-01-01'), (3, 3, '2026-01-01')")
    pipeline.run(spec)
    pipeline.warehouse.execute("update raw_shop.orders set amount = 1.0 where id = 1")
    pipeline.app.execute("update orders set amount = 5 where id = 2")
    pipeline.app.execute("delete from orders where id = 3")
    left = "lingering" if spec.deletes == "soft" else "extra"
    report = compare(pipeline, spec)
    assert counts(report) == {differing: 2, left: 1}
    if differing == "differing":
        repair(pipeline.source, pipeline.warehouse, spec, report, "r1")
        assert counts(compare(pipeline, spec)) == ({"extra": 1} if left == "extra" else {})


def test_a_full_table_without_a_cursor_has_nothing_settled(pipeline: Pipeline) -> None:
    pipeline.app.execute("create table events (what text)")
    pipeline.app.execute("insert into events values ('a'), ('a'), ('b')")
    spec = pipeline.spec("events", mode="full", key=[], cursor=None)
    pipeline.run(spec)
    assert counts(compare(pipeline, spec)) == {}
    pipeline.app.execute("delete from events where ctid = '(0,1)'; insert into events values ('c')")
    report = compare(pipeline, spec)
    assert counts(report) == {"unsettled": 2} and report.is_clean
    pipeline.run(spec)
    assert counts(compare(pipeline, spec)) == {}


def test_a_full_table_with_a_cursor_is_settled_by_its_last_load(pipeline: Pipeline) -> None:
    spec = pipeline.spec(mode="full")
    pipeline.app.execute("insert into orders values (1, 1, '2026-01-01'), (2, 2, '2026-01-01')")
    pipeline.run(spec)
    pipeline.warehouse.execute("delete from raw_shop.orders where id = 1")
    assert counts(compare(pipeline, spec)) == {"missing": 1}


def test_a_full_table_without_a_key_is_repaired_as_a_whole(pipeline: Pipeline) -> None:
    spec = pipeline.spec(mode="full", key=[])
    pipeline.app.execute("insert into orders select n, n, '2026-01-01' from generate_series(1, 500) n")
    pipeline.run(spec)
    pipeline.warehouse.execute("delete from raw_shop.orders where id = 1")
    report = compare(pipeline, spec)
    assert counts(report) == {"missing": 1}
    repair(pipeline.source, pipeline.warehouse, spec, report, "now")
    pipeline.assert_equal()


def test_a_row_without_a_cursor_value_is_settled_in_no_table_that_is_read_whole(pipeline: Pipeline) -> None:
    spec = pipeline.spec(mode="full")
    pipeline.app.execute("alter table orders alter updated_at drop not null")
    pipeline.run(spec)
    pipeline.app.execute("insert into orders values (1, 1, null)")
    assert counts(compare(pipeline, spec)) == {"unsettled": 1}


def test_a_dead_repair_leaves_nothing_behind(
    pipeline: Pipeline, spec: TableSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.warehouse.execute("delete from raw_shop.orders where id = 7")
    report = compare(pipeline, spec)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr("include.operate.reconcile.load_batch", lambda *_: 1 / 0)
        repair(pipeline.source, pipeline.warehouse, spec, report, "dead")
    repair(pipeline.source, pipeline.warehouse, spec, report, "alive")
    assert pipeline.raw("select * from _elt.extraction") == []
    assert pipeline.staging_tables() == []


def test_a_table_that_was_never_loaded_is_named(pipeline: Pipeline) -> None:
    ledger.ensure(pipeline.warehouse, "raw_shop")
    with pytest.raises(EmptyError, match="shop.orders: it was not loaded yet"):
        compare(pipeline, pipeline.spec())
