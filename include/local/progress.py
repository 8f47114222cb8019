"""What a person sees of a run on the command line: each step as it ends, and a short result."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

MAX_WIDTH = 120
QUIET_SECONDS = 4
"""Where the output is no terminal, so long nothing is said at most."""

ENDED = ("success", "failed", "skipped", "upstream_failed")

_PLAIN = re.compile(r"[a-z_]\w*\.[a-z_]\w*")
"""A relation that a shell and SQL take without quotes."""


@dataclass(frozen=True)
class Task:
    """A task of a run: its state (None while it waits) and how long its last try took, in seconds.

    `map_index` counts the tasks that one became, from 0; -1 where it stands alone. `warning` is what it warns of, where
    it succeeded all the same.
    """

    task_id: str
    operator: str
    state: str | None
    seconds: float
    map_index: int = -1
    warning: str | None = None

    @property
    def name(self) -> str:
        """As a person tells it apart: `erp.orders.extract 3` is the third."""
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
    """Lines for a person, none wider than the terminal. On a terminal the last line also says what goes on now."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._width = shutil.get_terminal_size().columns if self._live else MAX_WIDTH
        self._begin = time.monotonic()

    def line(self, text: str = "") -> None:
        print(f"\r\x1b[K{text}" if self._live else text, flush=True)

    def step(self, text: str) -> None:
        for number, part in enumerate(textwrap.wrap(text, max(20, self._width - 10)) or [""]):
            self.line(f"{self.elapsed():>6.1f}s  {part}" if number == 0 else f"{'':>9}{part}")

    def status(self, text: str) -> None:
        if self._live:
            print(f"\r\x1b[K{f'{self.elapsed():>6.1f}s  {text}'[: self._width - 1]}", end="", flush=True)

    @contextmanager
    def waiting(self, text: str) -> Iterator[Callable[[str], None]]:
        """Keep saying what is waited for while the block works; yields how to say something else."""
        said, is_over = [text], threading.Event()

        def talk() -> None:
            with suppress(BrokenPipeError):  # whoever listened is gone: the block's own next line ends it
                while not is_over.wait(1 if self._live else QUIET_SECONDS):
                    self.status(said[-1]) if self._live else self.step(f"… {said[-1]}")

        speaker = threading.Thread(target=talk, daemon=True)
        self.status(text)
        speaker.start()

        def say(other: str) -> None:
            said.append(other)
            self.status(other)

        try:
            yield say
        finally:
            is_over.set()
            speaker.join()

    def elapsed(self) -> float:
        return time.monotonic() - self._begin

    def show(self, task: Task, tasks: list[Task], why_again: str = "") -> None:
        """One task that ended, or that is to be tried again; passed tests are only counted."""
        if task.state == "failed":
            self.step(f"✗ {task.name}")
        elif task.state == "up_for_retry":
            self.step(f"↻ {task.name}: tried again in a few minutes (Ctrl-C ends the run) {why_again}".rstrip())
        elif not task.is_test and task.operator != "EmptyOperator":
            self.step(f"{'–' if task.state == 'skipped' else '✓'} {task.name}  {task.seconds:.1f}s")
        self.status(counted(tasks))

    def report(self, tasks: list[Task], loads: Iterable[Load]) -> None:
        """The result of a run, of which these are all tasks: what was moved, and how many models and tests passed."""
        self.line()
        heads = [("table", "mode", "rows read", "inserted", "updated", "rows/s")]
        rows = heads + [_row_of(load, tasks) for load in loads]
        widest = min(max(len(row[0]) for row in rows), self._width - 33)
        for row in rows if len(rows) > 1 else ():
            name = row[0] if len(row[0]) <= widest else f"{row[0][: widest - 1]}…"
            name = f"{name:<{widest + 2}}"
            shown = f"{name}{row[1]:<13}" + "".join(f"{cell:>10}" for cell in row[2:])
            narrow = name + "".join(f"{cell:>10}" for cell in row[2:5])
            self.line(shown if self._width > len(shown) else narrow)
        self.line()
        models, tests = [task for task in tasks if task.is_model], [task for task in tasks if task.is_test]
        for what, group in (("dbt models", models), ("dbt tests", tests)):
            warned = sum(task.warning is not None for task in group)
            passed = sum(task.state == "success" for task in group) - warned
            failed = sum(task.state == "failed" for task in group)
            counts = {"failed": failed, "warned": warned, "not run": len(group) - passed - failed - warned}
            rest = "".join(f", {count} {name}" for name, count in counts.items() if count)
            self.line(f"{what:<12}{passed} of {len(group)} passed{rest}")
        self.line(f"{'time':<12}{self.elapsed():.0f} seconds, {len(tasks)} Airflow tasks")
        for task in tasks:
            if task.warning:
                self.line(f"\n! {task.name}\n  {task.warning}")
        self.line()

    def what_next(self, look: str, models: Sequence[tuple[bool, str]]) -> None:
        """How to look at the result, or what is to be done first.

        Args:
            look: A command, with braces in the place of its query.
            models: Whether each is in the layer `marts`, and its relation.
        """
        mart = max((each for each in models if _PLAIN.fullmatch(each[1])), default=(False, None))[1]
        if mart:
            self.line(f"The marts:   {look.format(f'select * from {mart} limit 5')}")
        elif models:
            self.line("No mart yet: docs/yours.md says how to write one")
        else:
            self.line(
                "No table yet: set AIRFLOW_CONN_ERP to your database, then make onboard SOURCE=erp (docs/yours.md)"
            )


def counted(tasks: list[Task]) -> str:
    """How far a run is."""
    return f"{sum(task.state in ENDED for task in tasks)} of {len(tasks)} tasks"


def _row_of(load: Load, tasks: list[Task]) -> tuple[str, ...]:
    name = f"{load.source}.{load.table_name}"
    steps = [f"{name}.{step}" for step in ("cut", "extract", "load")]
    seconds = sum(task.seconds for task in tasks if task.task_id in steps)
    counts = (load.rows_extracted, load.rows_inserted, load.rows_updated)
    rate = f"{load.rows_extracted / seconds:,.0f}" if seconds else ""
    return (name, load.mode, *(f"{count:,}" for count in counts), rate)
