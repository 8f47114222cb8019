"""What the project's own times are to be at most, as shares of another's in the same run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

OURS = "elt_pipeline"

Measured = tuple[str, int, str]
"""Task, size and contender."""


@dataclass(frozen=True)
class Goal:
    """`ours` takes at most `share` times as long as `beside`."""

    ours: tuple[str, int]
    beside: Measured
    share: float


def _beside(task: str, size: int, **shares: float) -> list[Goal]:
    names = {"psql": "psql, COPY", "ingestr": "ingestr", "dlt": "dlt, fastest backend", "sling": "Sling"}
    return [Goal((task, size), (task, size, names[who]), share) for who, share in shares.items()]


GOALS = [
    *_beside("first load", 5_000_000, psql=0.85, ingestr=0.3, dlt=0.45, sling=0.3),
    *_beside("delta of 100,000", 5_000_000, psql=0.85, ingestr=1.0, dlt=0.25, sling=0.6),
    Goal(("delta of 100,000", 5_000_000), ("delta of 100,000", 500_000, OURS), 2.0),
    Goal(("replay of 100,000", 5_000_000), ("delta of 100,000", 5_000_000, OURS), 0.8),
]


def verdicts(seconds: Mapping[Measured, float]) -> Iterator[str]:
    """One line for each goal that was measured."""
    for goal in GOALS:
        task, size = goal.ours
        ours, beside = seconds.get((task, size, OURS)), seconds.get(goal.beside)
        if ours and beside:
            share = ours / beside
            met = "met" if share <= goal.share else "MISSED"
            other = " · ".join([f"{part:,}" if isinstance(part, int) else part for part in goal.beside])
            yield f"{met:<7}{task} · {size:,}: {share:.2f} of {other}; at most {goal.share}"
