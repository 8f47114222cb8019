"""An installation of its own on a generated project: what `make run` and `make ui` have, in a temporary folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import psycopg

from benchmarks.measure import BenchError, Cost, run
from benchmarks.project import write_project
from include.compose.airflow_api import Airflow
from include.local import metadata
from include.local.environment import Installation
from include.local.servers import HOST
from include.local.ui import READY

SETTINGS = {
    "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "1",  # whoever needs a retry does not count, and should not wait for it
    "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",  # a DAG runs when it is told to and at no other time
    "ROWS": "100",
}

FOREIGN = ("AIRFLOW_", "DBT_", "ELT_", "PG", "PYTHONPATH")
"""How the names of variables begin that the person's own shell must not pass on."""

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Project:
    """A tree with `models` dbt models, and the state its commands keep."""

    tree: Path
    models: int

    @cached_property
    def here(self) -> Installation:
        return Installation(self.tree / ".local")

    @cached_property
    def variables(self) -> dict[str, str]:
        """Of every command."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
        places = {"PYTHONPATH": str(self.tree), "ELT_STATE": str(self.here.state), "UI_PORT": str(_free_port())}
        return kept | SETTINGS | places

    def local(self, *arguments: str) -> Cost:
        """One command of the Makefile, such as `exec dbt build`."""
        return run([sys.executable, "-m", "include.local", *arguments], self.variables, self.tree)

    def command(self, *command: str) -> Cost:
        """A command in a shell that has sourced `.local/env`."""
        words = ["sh", "-c", '. "$0" && exec "$@"', str(self.here.state / "env"), *command]
        return run(words, self.variables, self.tree)

    def dags_test(self, dag_id: str, tasks: int) -> Cost:
        """The whole DAG in one `airflow dags test`.

        Raises:
            BenchError: not every one of that many tasks succeeded.
        """
        cost = self.command("airflow", "dags", "test", dag_id)
        with psycopg.connect(self.here.metadata, autocommit=True) as database:
            last = metadata.latest_run(database, dag_id)
            check(dag_id, [task.state for task in metadata.tasks_of(database, last)], tasks)
        return cost

    @contextmanager
    def services(self) -> Iterator[Services]:
        """What `make ui` starts, until the end of the block."""
        command = [sys.executable, "-m", "include.local", "ui"]
        with (self.here.logs / "ui.log").open("w+") as output:
            child = subprocess.Popen(
                command, env=self.variables, cwd=self.tree, stdout=subprocess.PIPE, stderr=output, text=True
            )
            try:
                if not (child.stdout and any(line.startswith(READY) for line in child.stdout)):
                    output.seek(0)
                    raise BenchError(f"Airflow did not start: {output.read()}")
                url = f"http://{HOST}:{self.variables['UI_PORT']}"
                yield Services(psutil.Process(child.pid), Airflow(url, "admin", self.here.secrets()["admin"]))
            finally:
                child.send_signal(signal.SIGTERM)
                child.wait()


@dataclass(frozen=True)
class Services:
    """Airflow's running services, reached as a person reaches them."""

    process: psutil.Process
    api: Airflow

    def run(self, dag_id: str, tasks: int) -> Cost:
        """The whole DAG under the scheduler: from the run's start to its end as Airflow's metadata has them.

        Raises:
            BenchError: not every one of that many tasks succeeded at its first try.
        """
        before, peak = self._cpu_seconds(), 0.0
        run_id = self.api.trigger(dag_id)
        path = f"/dags/{dag_id}/dagRuns/{run_id}"
        while (done := self.api.call("GET", path))["state"] in ("queued", "running"):
            peak = max(peak, *(size / 1e6 for size in self._each(lambda process: process.memory_info().rss)))
            time.sleep(POLL_SECONDS)
        found: list[dict[str, Any]] = self.api.tasks(dag_id, run_id)
        check(dag_id, [task["state"] if task["try_number"] == 1 else "retried" for task in found], tasks)
        return Cost(done["duration"], self._cpu_seconds() - before, peak)

    def _cpu_seconds(self) -> float:
        """CPU time of every process below, those that ended included."""
        return sum(sum(times[:4]) for times in self._each(lambda process: process.cpu_times()))

    def _each(self, look: Callable[[psutil.Process], Any]) -> Iterator[Any]:
        for process in self.process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                yield look(process)


@contextmanager
def open_project(folder: Path, models: int) -> Iterator[Project]:
    """A project with its databases running and its small source filled; all of it is removed at the end."""
    project = Project(folder / f"{models}-models", models)
    write_project(project.tree, models)
    try:
        project.local("shop")
        project.local("exec", "airflow", "version")
        yield project
    finally:
        project.local("clean")


def check(dag_id: str, states: Sequence[str | None], tasks: int) -> None:
    """Refuse a run of which not every task succeeded, or that had others: it would be fast for the wrong reason."""
    if len(states) != tasks or set(states) != {"success"}:
        raise BenchError(f"{dag_id} has {tasks} tasks; they ended as {dict(Counter(states))}: it does not count")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]
