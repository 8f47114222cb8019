"""Numbers over time as bars, for the page Pipeline health: what include/health.html.jinja draws as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import quantiles
from typing import Any

ENOUGH = 8
"""Values before the newest from which on something can be called usual."""


@dataclass(frozen=True)
class Bar:
    """One value, what is said of it, and its colour: a class of the page."""

    value: float
    said: str
    kind: str = "busy"


@dataclass(frozen=True)
class Picture:
    """Bars, the oldest first.

    Attributes:
        title: What is counted, and in what.
    """

    title: str
    bars: Sequence[Bar]

    @property
    def highest(self) -> Bar:
        """The highest of its bars, of which there is one at least."""
        return max(self.bars, key=lambda bar: bar.value)

    @property
    def top(self) -> float:
        """What the height of the picture stands for: more than nothing."""
        return self.highest.value or 1

    @property
    def usual(self) -> tuple[float, float] | None:
        """Between what the bars before the newest lie, outliers left out (Tukey's fences); None: too few to tell."""
        before = [bar.value for bar in self.bars[:-1]]
        if len(before) < ENOUGH:
            return None
        low, _, high = quantiles(before, method="inclusive")
        reach = 1.5 * (high - low)
        return max(low - reach, 0), high + reach

    @property
    def is_unusual(self) -> bool:
        """Whether the newest bar is outside of that: worth a look, nothing that failed."""
        return self.usual is not None and not self.usual[0] <= self.bars[-1].value <= self.usual[1]


def of_history(loads: Sequence[Any]) -> list[Picture]:
    """What was loaded of a table, and how long that took: rows of history.sql."""
    read = [Bar(one.rows_extracted, f"{_when(one)}: {one.rows_extracted:,} rows read") for one in loads]
    deleted = [Bar(one.rows_deleted, f"{_when(one)}: {one.rows_deleted:,} rows deleted") for one in loads]
    took = [Bar(one.took.total_seconds(), f"{_when(one)}: {span(one.took)}") for one in loads]
    return [Picture("rows read", read), Picture("rows deleted", deleted), Picture("extract and load", took)]


def of_loads(loads: Sequence[Any]) -> Picture:
    """Rows that each of the newest loads read: rows of recent_loads.sql, the newest first."""
    bars = [
        Bar(one.rows_extracted, f"{one.loaded_at:%Y-%m-%d %H:%M}: {one.rows_extracted:,} rows read") for one in loads
    ]
    return Picture("rows read", bars[::-1])


def of_task(results: Sequence[Any]) -> Picture:
    """How long a task took, in the colour of how it ended: rows of `health_runs.results`."""
    ran = [one for one in results if one.duration]  # not what waited in vain
    said = [f"{one.start_date:%Y-%m-%d %H:%M}: {one.state}, {one.duration:.1f} s" for one in ran]
    return Picture("time it took", [Bar(one.duration, text, one.state) for one, text in zip(ran, said)])


def of_rows(built: Sequence[Any]) -> Picture:
    """How many rows a task built each time: rows of `health_runs.rows_built`."""
    rows = [(one.extra["rows"], f"{one.timestamp:%Y-%m-%d %H:%M}: {one.extra['rows']:,} rows") for one in built]
    return Picture("rows built", [Bar(*each) for each in rows])


def of_runs(runs: Sequence[Any]) -> Picture:
    """How long runs took, in the colour of how they ended: ended runs of Airflow, the oldest first."""
    bars = []
    for run in runs:
        took = run.end_date - run.start_date
        said = f"{run.start_date:%Y-%m-%d %H:%M}: {run.state} after {span(took)}"
        bars.append(Bar(took.total_seconds(), said, run.state))
    return Picture("time that runs took", bars)


def _when(one: Any) -> str:
    """Of a load, or of the loads of a day."""
    return f"{one.since:%Y-%m-%d}, {one.loads} loads" if one.loads > 1 else f"{one.since:%Y-%m-%d %H:%M}"


def span(span: timedelta) -> str:
    """Two figures that matter: `4.2 s`, `3 min 5 s`, `2 h 40 min`, `5 d 3 h`."""
    seconds = span.total_seconds()
    if abs(seconds) < 60:
        return f"{seconds:.1f} s"
    for size, unit, smaller, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if abs(seconds) >= size:
            whole, rest = divmod(int(abs(seconds)), size)
            return f"{'−' if seconds < 0 else ''}{whole} {unit} {rest // smaller} {part}"
    raise AssertionError(span)
