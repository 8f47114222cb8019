"""Which watermark counts: the ledger is the truth, the Airflow Variable its published copy that a person may lower."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from include.errors import ConfigError
from include.sources import TableSpec
from include.state.messages import Horizon, Window, to_text

log = structlog.get_logger(__name__)


BEGINNING = datetime.min.replace(tzinfo=UTC)
"""A Variable set to this instant reads everything again: rows before it and at `-infinity` too."""


@dataclass(frozen=True)
class LastMark:
    """The newest ledger row that moved a table's watermark.

    Attributes:
        mark: The watermark it committed.
        horizon: The horizon it read; below `mark` only where the source's clock stepped back.
        watermark_before: The Variable as its extraction read it.
        is_published: Whether the Variable was set after its commit.
    """

    mark: datetime
    horizon: datetime
    watermark_before: str | None
    is_published: bool


def read_instant(text: str) -> datetime:
    """An ISO instant with its time zone, in UTC.

    Raises:
        ValueError: says what is wrong with it.
    """
    try:
        instant = datetime.fromisoformat(text.strip())
        in_utc = instant.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("not an ISO instant such as 2026-01-31T00:00:00+00:00") from None
    if instant.tzinfo is None:
        raise ValueError("without a time zone")
    return in_utc


def parse(spec: TableSpec, value: str, now: datetime) -> datetime:
    """The Variable's value as an instant.

    Raises:
        ConfigError: empty, malformed, without a time zone or in the future; says how to repair it.
    """
    repair = f"; repair it with `airflow variables delete {spec.watermark_key}`, the next run then takes the ledger's"
    shown = f"Variable {spec.watermark_key} is {value!r}"
    try:
        instant = read_instant(value)
    except ValueError as error:
        raise ConfigError(f"{shown}, {error}{repair}") from None
    if instant > now:
        raise ConfigError(f"{shown}, in the future (the source's clock says {to_text(now)}){repair}")
    return instant


def resolve(spec: TableSpec, value: str | None, last: LastMark | None, now: datetime) -> datetime | None:
    """The watermark to read from; None reads everything.

    Args:
        spec: The table.
        value: The Airflow Variable, None where it does not exist.
        last: The ledger's newest mark, None where the table was never loaded.
        now: The source's clock when the horizon was read.

    Raises:
        ConfigError: the Variable's value is unusable.
    """
    # The horizon may be old: where only this task is cleared, or waits for its retry, later runs have moved the mark.
    latest = max(now, last.mark) if last else now
    variable = None if value is None else parse(spec, value, latest)
    say = log.bind(table=spec.name, variable=value, ledger=last and to_text(last.mark))
    if last is None:
        if variable is not None:
            say.info("raw holds nothing that the ledger knows of: the Variable is ignored, everything is read")
        return None
    if variable is None or variable == last.mark:
        return last.mark
    if variable > last.mark:
        say.warning("the Variable is ahead of the ledger (warehouse restored?): the ledger decides")
        return last.mark
    if not last.is_published and value == last.watermark_before:
        say.warning("the last load ended before it published its watermark: the ledger decides")
        return last.mark
    say.info("the Variable was lowered: reading again from there")
    return None if variable == BEGINNING else variable


def next_window(
    spec: TableSpec, value: str | None, last: LastMark | None, horizon: Horizon, *, full_refresh: bool = False
) -> Window:
    """The slice that a run without a window of its own reads; arguments as for `resolve` and `incremental_window`."""
    if spec.mode == "full":
        return Window("full", None, None, mark=None)
    mark = resolve(spec, value, last, horizon.read_at)
    return incremental_window(spec, None if full_refresh else mark, last, horizon)


def incremental_window(spec: TableSpec, mark: datetime | None, last: LastMark | None, horizon: Horizon) -> Window:
    """The slice a scheduled run reads: from the watermark, less the overlap, to whatever the snapshot shows.

    The lower bound also respects the last horizon, and this one, where the source's clock stepped back.
    The new mark is the horizon and never goes back; it stays where a prepared transaction forbids to advance.
    """
    before = last.mark if last else None
    if horizon.may_advance:
        new_mark = max(horizon.at, before) if before else horizon.at
    else:
        new_mark = before  # type: ignore[assignment]
    if mark is None or last is None:
        return Window("first" if last is None else "full", None, None, new_mark)
    lower = max(min(mark, last.horizon, horizon.at), BEGINNING + spec.overlap) - spec.overlap
    return Window("incremental", lower, None, new_mark)
