"""What a person sees of a run on the command line: each step as it ends, and a short result."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

ENDED = ("success", "failed", "skipped", "upstream_failed")


@dataclass(frozen=True)
class Task:
    """A task of a run: its state (None while it waits) and how long its last try took, in seconds.

    `map_index` counts the tasks that one became, from 0; -1 where it stands alone.
    """

    task_id: str
    operator: str
    state: str | None
    seconds: float
    map_index: int = -1

    @property
    def name(self) -> str:
        """As a person tells it apart: `shop.orders.extract 3` is the third."""
        return self.task_id if self.map_index < 0 else f"{self.task_id} {self.map_index + 1}"

    @property
    def is_test(self) -> bool:
        return self.operator == "DbtTest"

    @property
    def is_model(self) -> bool:
        return self.operator in ("DbtRun", "DbtSnapshot", "DbtSeed")


class Load(Protocol):
    """What one load moved: a `LoadResult`, or a row of the ledger."""

    source: str
    table_name: str
    mode: str
    rows_extracted: int
    rows_inserted: int
    rows_updated: int


class Console:
    """Lines for a person. On a terminal the last line also shows what was done most recently."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._begin = time.monotonic()

    def line(self, text: str = "") -> None:
        print(f"\r\x1b[K{text}" if self._live else text, flush=True)

    def step(self, text: str) -> None:
        self.line(f"{self.elapsed():>6.1f}s  {text}")

    def status(self, text: str) -> None:
        if self._live:
            print(f"\r\x1b[K{self.elapsed():>6.1f}s  {text[:100]}", end="", flush=True)

    def elapsed(self) -> float:
        return time.monotonic() - self._begin

    def show(self, task: Task, tasks: list[Task], why_again: str = "") -> None:
        """One task that ended, or that is to be tried again; passed tests are only counted."""
        if task.state == "failed":
            self.step(f"✗ {task.name}")
        elif task.state == "up_for_retry":
            self.step(f"↻ {task.name}: tried again in a few minutes (Ctrl-C ends the run) {why_again}".rstrip())
        elif not task.is_test:
            self.step(f"{'–' if task.state == 'skipped' else '✓'} {task.name}  {task.seconds:.1f}s")
        self.status(f"{sum(each.state in ENDED for each in tasks)} of {len(tasks)} tasks, {task.name}")

    def report(self, tasks: list[Task], loads: Iterable[Load]) -> None:
        """The result of a run, of which these are all tasks: what was moved, and how many models and tests passed."""
        self.line()
        self.line(f"{'table':<22}{'mode':<13}{'rows read':>10}{'inserted':>10}{'updated':>10}{'rows/s':>10}")
        for row in loads:
            name = f"{row.source}.{row.table_name}"
            steps = [f"{name}.{step}" for step in ("cut", "extract", "load")]
            rate = f"{row.rows_extracted / sum(task.seconds for task in tasks if task.task_id in steps):,.0f}"
            counts = (row.rows_extracted, row.rows_inserted, row.rows_updated)
            self.line(f"{name:<22}{row.mode:<13}" + "".join(f"{count:>10,}" for count in counts) + f"{rate:>10}")
        self.line()
        models, tests = [task for task in tasks if task.is_model], [task for task in tasks if task.is_test]
        for what, group in (("dbt models", models), ("dbt tests", tests)):
            passed = sum(task.state == "success" for task in group)
            failed = sum(task.state == "failed" for task in group)
            self.line(f"{what:<12}{passed} of {len(group)} passed" + (f", {failed} failed" if failed else ""))
        self.line(f"{'time':<12}{self.elapsed():.0f} seconds, {len(tasks)} Airflow tasks")
        self.line()
