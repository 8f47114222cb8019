"""What was measured, as a table and as CSV."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks.measure import Cost


@dataclass(frozen=True)
class Sample:
    """One timed process: what was to be done, at which size, and by whom."""

    task: str
    size: int
    contender: str
    cost: Cost


@dataclass(frozen=True)
class Median:
    """The medians of one contender at one task; `ratio` is its time over that of the task's first contender."""

    task: str
    size: int
    contender: str
    cost: Cost
    ratio: float
    repeats: int


def medians(samples: Iterable[Sample]) -> list[Median]:
    """One line per task, size and contender, in the order they were measured in."""
    groups: dict[tuple[str, int], dict[str, list[Cost]]] = {}
    for sample in samples:
        groups.setdefault((sample.task, sample.size), {}).setdefault(sample.contender, []).append(sample.cost)
    made = []
    for (task, size), contenders in groups.items():
        middle = {name: _middle(costs) for name, costs in contenders.items()}
        base = next(iter(middle.values())).seconds
        for name, cost in middle.items():
            made.append(Median(task, size, name, cost, cost.seconds / base, len(contenders[name])))
    return made


def _middle(costs: list[Cost]) -> Cost:
    return Cost(*(median(getattr(cost, name) for cost in costs) for name in ("seconds", "cpu_seconds", "peak_mb")))


def table(lines: list[Median]) -> str:
    """The medians for a terminal."""
    head = f"{'task':<12}{'size':>10}  {'contender':<26}{'seconds':>9}{'ratio':>8}{'CPU s':>8}{'peak MB':>9}"
    return "\n".join([head, *map(_line, lines)])


def _line(line: Median) -> str:
    cost = line.cost
    start = f"{line.task:<12}{line.size:>10}  {line.contender:<26}"
    return start + f"{cost.seconds:>9.2f}{line.ratio:>8.2f}{cost.cpu_seconds:>8.2f}{cost.peak_mb:>9.0f}"


def write_csv(lines: list[Median], path: Path) -> None:
    """Write the medians with the day, the commit and the machine they come from."""
    origin = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": _commit(), "machine": _machine()}
    rows = [
        origin
        | {"task": line.task, "size": line.size, "contender": line.contender, "repeats": line.repeats}
        | {"seconds": round(line.cost.seconds, 3), "ratio": round(line.ratio, 3)}
        | {"cpu_seconds": round(line.cost.cpu_seconds, 3), "peak_mb": round(line.cost.peak_mb)}
        for line in lines
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _machine() -> str:
    load = os.getloadavg()[0]
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, load {load:.1f}"
