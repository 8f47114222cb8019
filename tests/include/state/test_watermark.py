"""Which watermark counts, row by row of the state table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from include.errors import ConfigError
from include.sources import TableSpec
from include.state import watermark
from include.state.messages import Horizon, to_text
from include.state.watermark import LastMark

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MARK = NOW - timedelta(days=1)
EARLIER = MARK - timedelta(days=1)
SPEC = TableSpec(source="shop", table="orders", identifier="orders", key=["id"], cursor="updated_at")
LAST = LastMark(MARK, MARK, to_text(EARLIER), is_published=True)


def test_a_mark_that_a_later_run_has_moved_beyond_this_ones_clock_is_no_future() -> None:
    """Yesterday's extract, cleared today: its horizon is of yesterday, Variable and ledger are of today."""
    assert watermark.resolve(SPEC, to_text(MARK), LAST, EARLIER) == MARK


def test_neither_variable_nor_ledger_means_first_load() -> None:
    assert watermark.resolve(SPEC, None, None, NOW) is None


def test_variable_missing_the_ledger_decides() -> None:
    assert watermark.resolve(SPEC, None, LAST, NOW) == MARK


def test_variable_equal_to_the_ledger() -> None:
    assert watermark.resolve(SPEC, to_text(MARK), LAST, NOW) == MARK


def test_variable_above_the_ledger_the_ledger_decides() -> None:
    assert watermark.resolve(SPEC, to_text(NOW), LAST, NOW) == MARK


def test_variable_without_a_ledger_reads_everything() -> None:
    assert watermark.resolve(SPEC, to_text(MARK), None, NOW) is None


def test_variable_lowered_by_a_person_is_honoured() -> None:
    lowered = EARLIER - timedelta(days=7)
    assert watermark.resolve(SPEC, to_text(lowered), LAST, NOW) == lowered


def test_variable_lowered_to_the_mark_before_is_honoured_after_a_published_load() -> None:
    assert watermark.resolve(SPEC, to_text(EARLIER), LAST, NOW) == EARLIER


def test_killed_before_the_variable_was_set_heals_from_the_ledger() -> None:
    killed = LastMark(MARK, MARK, to_text(EARLIER), is_published=False)
    assert watermark.resolve(SPEC, to_text(EARLIER), killed, NOW) == MARK


def test_lowered_after_a_kill_is_still_honoured() -> None:
    killed = LastMark(MARK, MARK, to_text(EARLIER), is_published=False)
    lowered = EARLIER - timedelta(days=7)
    assert watermark.resolve(SPEC, to_text(lowered), killed, NOW) == lowered


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("", "not an ISO instant"),
        ("yesterday", "not an ISO instant"),
        ("None", "not an ISO instant"),
        ("2026-01-01T00:00:00", "without a time zone"),
        ("2026-03-01T12:00:00.000001+00:00", "in the future"),
    ],
)
def test_unusable_variable_names_key_value_and_repair(value: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        watermark.resolve(SPEC, value, LAST, NOW)
    message = str(raised.value)
    assert complaint in message and repr(value) in message
    assert "airflow variables delete watermark__shop__orders" in message


def test_the_window_starts_an_overlap_before_the_mark_and_has_no_end() -> None:
    window = watermark.incremental_window(SPEC, MARK, LAST, Horizon(NOW, NOW))
    assert (window.lower, window.upper, window.mark) == (MARK - timedelta(minutes=1), None, NOW)


def test_the_window_reads_from_a_horizon_that_fell_behind_the_mark() -> None:
    window = watermark.incremental_window(SPEC, MARK, LAST, Horizon(EARLIER, EARLIER))
    assert (window.lower, window.mark) == (EARLIER - timedelta(minutes=1), MARK)


def test_a_prepared_transaction_keeps_the_mark() -> None:
    window = watermark.incremental_window(SPEC, MARK, LAST, Horizon(NOW, NOW, may_advance=False))
    assert window.mark == MARK
