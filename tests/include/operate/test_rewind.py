"""Rewinds, and gaps that make one necessary."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from include.errors import ConfigError
from include.operate.rewind import rewind_mark
from include.state import ledger
from include.state.ledger import Gap
from include.state.messages import Window, to_text
from include.state.watermark import BEGINNING
from tests.include.conftest import Pipeline

OVERLAP = timedelta(minutes=1)


def load(pipeline: Pipeline, **extract: object) -> datetime:
    """A run whose watermark the Variable shows; the mark."""
    pipeline.app.execute("insert into orders select 1, 1 where not exists (select from orders)")
    result = pipeline.run(pipeline.spec(), **extract)
    ledger.mark_published(pipeline.warehouse, pipeline.spec())
    assert result.mark is not None
    return result.mark


def test_to_an_instant(pipeline: Pipeline) -> None:
    load(pipeline)
    assert rewind_mark(pipeline.warehouse, pipeline.spec(), "2026-01-31T01:00:00+01:00") == datetime(
        2026, 1, 31, tzinfo=UTC
    )


def test_to_a_past_run_reads_again_what_it_and_later_ones_read(pipeline: Pipeline) -> None:
    first = load(pipeline, run_id="first")
    load(pipeline, run_id="second")
    load(pipeline, run_id="third")
    assert rewind_mark(pipeline.warehouse, pipeline.spec(), "second") == first - OVERLAP
    assert rewind_mark(pipeline.warehouse, pipeline.spec(), "first") == BEGINNING


def test_to_a_run_goes_back_to_the_earliest_that_a_later_one_read(pipeline: Pipeline) -> None:
    load(pipeline, run_id="first")
    load(pipeline, run_id="second")
    load(pipeline, run_id="third", variable="2026-01-01T00:00:00+00:00")
    assert rewind_mark(pipeline.warehouse, pipeline.spec(), "second") == datetime(2026, 1, 1, tzinfo=UTC) - OVERLAP


@pytest.mark.parametrize("at", ["-infinity", "0044-03-15 BC", "0001-01-01 00:00+00", "2026-01-01"])
def test_to_the_beginning_reads_everything(pipeline: Pipeline, at: str) -> None:
    pipeline.app.execute("insert into orders values (1, 1, %s)", (at,))
    load(pipeline)
    pipeline.warehouse.execute("update raw_shop.orders set amount = 0")
    mark = rewind_mark(pipeline.warehouse, pipeline.spec(), "beginning")
    assert pipeline.run(pipeline.spec(), variable=to_text(mark)).rows_updated == 1
    pipeline.assert_equal()


def test_just_after_the_beginning_does_not_overflow(pipeline: Pipeline) -> None:
    load(pipeline)
    batch = pipeline.extract(pipeline.spec(), variable="0001-01-01T00:00:30+00:00")
    assert (batch.mode, batch.window_start) == ("incremental", BEGINNING)


def test_a_table_created_anew_in_the_source_is_read_whole(pipeline: Pipeline) -> None:
    pipeline.app.execute("insert into orders values (1, 1), (2, 2)")
    load(pipeline)
    pipeline.app.execute("drop table orders")
    pipeline.app.execute("create table orders (id bigint primary key, amount numeric, updated_at timestamptz not null)")
    pipeline.app.execute("insert into orders values (1, 10, '2020-01-01'), (2, 20, '-infinity')")
    mark = rewind_mark(pipeline.warehouse, pipeline.spec(), "beginning")
    pipeline.run(pipeline.spec(), variable=to_text(mark))
    pipeline.assert_equal()


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("yesterday", "'yesterday' is no run that loaded it, not `beginning`, and as an instant it is not an ISO"),
        ("2026-01-31", "as an instant it is without a time zone"),
        ("0001-01-01T00:00:00+05:00", "as an instant it is not an ISO instant"),
        ("2999-01-01T00:00:00+00:00", "is not below the watermark"),
    ],
)
def test_what_is_no_rewind_is_refused(pipeline: Pipeline, to: str, message: str) -> None:
    load(pipeline)
    with pytest.raises(ConfigError, match=message):
        rewind_mark(pipeline.warehouse, pipeline.spec(), to)


def test_there_is_nothing_to_rewind_before_the_first_load_or_in_mode_full(pipeline: Pipeline) -> None:
    with pytest.raises(ConfigError, match="it was not loaded yet"):
        rewind_mark(pipeline.warehouse, pipeline.spec(), "beginning")
    with pytest.raises(ConfigError, match="reads everything in every run"):
        rewind_mark(pipeline.warehouse, pipeline.spec(mode="full"), "beginning")


def test_runs_without_a_fault_leave_no_gap(pipeline: Pipeline) -> None:
    for variable in (None, None, "2026-01-01T00:00:00+00:00", to_text(BEGINNING)):
        load(pipeline, variable=variable)
        assert ledger.gaps(pipeline.warehouse, pipeline.spec()) == []


def test_lost_ledger_rows_are_a_gap_until_it_is_read_again(pipeline: Pipeline) -> None:
    spec = pipeline.spec(overlap="0.001 seconds")
    pipeline.insert(1)
    marks = [pipeline.run(spec, run_id=f"r{number}").mark for number in range(4)]
    pipeline.warehouse.execute("delete from _elt.load_ledger where run_id in ('r1', 'r2')")
    assert marks[0] and marks[2]
    assert ledger.gaps(pipeline.warehouse, spec) == [Gap(marks[0], marks[2] - spec.overlap)]
    ledger.mark_published(pipeline.warehouse, spec)
    pipeline.run(spec, variable=to_text(marks[0]))
    assert ledger.gaps(pipeline.warehouse, spec) == []


def test_a_lost_first_load_is_a_gap_from_the_beginning(pipeline: Pipeline) -> None:
    first = load(pipeline, run_id="r0")
    load(pipeline)
    pipeline.warehouse.execute("delete from _elt.load_ledger where run_id = 'r0'")
    assert ledger.gaps(pipeline.warehouse, pipeline.spec()) == [Gap(None, first - OVERLAP)]


def test_a_backfill_closes_a_gap_and_a_repair_does_not(pipeline: Pipeline) -> None:
    spec = pipeline.spec(overlap="0.001 seconds")
    pipeline.insert(1)
    first, last = (pipeline.run(spec, run_id=f"r{number}").mark for number in range(2))
    assert first is not None and last is not None
    pipeline.run(spec, run_id="r2")
    pipeline.warehouse.execute("delete from _elt.load_ledger where run_id = 'r1'")
    pipeline.warehouse.execute("update _elt.load_ledger set mode = 'repair', mark = null where run_id = 'r0'")
    assert ledger.gaps(pipeline.warehouse, spec) == [Gap(None, last - spec.overlap)]
    pipeline.run(spec, window=Window("window", first, last, None))
    assert ledger.gaps(pipeline.warehouse, spec) == [Gap(None, first)]
