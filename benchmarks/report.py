"""What was measured: for a terminal, as CSV, and as README shows it."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks.measure import Cost
from include.local.environment import ROOT

WRITTEN = ("benchmarks/results.csv", "docs/bench.svg", "README.md")
"""What a run writes in the checkout, from its results alone."""


@dataclass(frozen=True)
class Sample:
    """One timed process: what was to be done, at which size, and by whom."""

    task: str
    size: int
    contender: str
    cost: Cost


@dataclass(frozen=True)
class Median:
    """The medians of one contender at one task, and where they come from.

    Attributes:
        ratio: Its time over that of the task's first contender.
        share: The other way round: the first one's time over its.
    """

    date: str
    commit: str
    machine: str
    task: str
    size: int
    contender: str
    repeats: int
    seconds: float
    ratio: float
    share: float
    cpu_seconds: float
    peak_mb: int


def medians(samples: Iterable[Sample]) -> list[Median]:
    """One line per task, size and contender, in the order they were measured in."""
    groups: dict[tuple[str, int], dict[str, list[Cost]]] = {}
    for sample in samples:
        groups.setdefault((sample.task, sample.size), {}).setdefault(sample.contender, []).append(sample.cost)
    origin = (f"{datetime.now(UTC):%Y-%m-%d}", _commit(), _machine())
    made = []
    for (task, size), contenders in groups.items():
        base = median(cost.seconds for cost in next(iter(contenders.values())))
        for name, costs in contenders.items():
            seconds, cpu, peak = (
                median(getattr(cost, name) for cost in costs) for name in ("seconds", "cpu_seconds", "peak_mb")
            )
            ratios = (round(seconds / base, 3), round(base / seconds, 3))
            figures = (len(costs), round(seconds, 3), *ratios, round(cpu, 3), round(peak))
            made.append(Median(*origin, task, size, name, *figures))
    return made


def table(lines: list[Median]) -> str:
    """The medians for a terminal."""
    head = f"{'task':<20}{'size':>10}  {'contender':<26}{'seconds':>9}{'x first':>9}{'first/it':>9}"
    head += f"{'CPU s':>9}{'peak MB':>9}"
    return "\n".join([head, *map(_line, lines)])


def _line(line: Median) -> str:
    start = f"{line.task:<20}{line.size:>10}  {line.contender:<26}{line.seconds:>9.2f}"
    return start + f"{line.ratio:>9.2f}{line.share:>9.2f}{line.cpu_seconds:>9.2f}{line.peak_mb:>9}"


def read_csv(path: Path) -> list[Median]:
    """The medians of a file that `write_csv` wrote; none where there is no such file."""
    if not path.exists():
        return []
    kinds = {"int": int, "float": float, "str": str}
    with path.open(newline="") as file:
        return [
            Median(**{field.name: kinds[str(field.type)](row[field.name]) for field in fields(Median)})
            for row in csv.DictReader(file)
        ]


def write_csv(lines: list[Median], path: Path) -> list[Median]:
    """Write the medians; of what was written before, other tasks and sizes stay. Returns all that the file holds."""
    measured = {(line.task, line.size) for line in lines}
    held = [line for line in read_csv(path) if (line.task, line.size) not in measured] + lines
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Median)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, held))
    return held


def _commit() -> str:
    return _git("describe", "--always").strip() + ("-dirty" if is_dirty() else "")


def is_dirty() -> bool:
    """Whether what is measured differs from its commit. What an earlier run wrote of its results does not count."""
    return bool(_git("status", "--porcelain", "--", *(f":!{path}" for path in WRITTEN)))


def _git(*arguments: str) -> str:
    """What git says of this checkout; nothing where there is none."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout


def _machine() -> str:
    load = os.getloadavg()[0]
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, load {load:.1f}"
