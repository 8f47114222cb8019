"""`make run`: the whole pipeline once, with progress while it works and a short result at the end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from include.local import metadata
from include.local.environment import ROOT, Installation, libpq_uri
from include.local.errors import LocalError
from include.local.progress import Console, Task, counted

DAG_ID = "elt_pipeline"
_ENDED = re.compile(r"\[DAG TEST\] end task task_id=(\S+) map_index=(-?\d+)")
_BEGUN = re.compile(r"\[DAG TEST\] starting task_id=(\S+)")
_LINE = re.compile(r"^(\d{4}-\d\d-\d\dT\S+) \[(\w+) *\] (.*)$")
_OF_THE_RUN = re.compile(r"\[DAG TEST\] |Task instance state updated|^\S+ \[info *\] Task started ")
"""What `airflow dags test` says around a task, where under a scheduler others do, in logs of their own."""
_ORIGIN = re.compile(r" +\[[\w.]+\]( [\w.]+=.*)?$")
_ERROR = re.compile(r"^(?:[\w.]*(?:Exception|Error|Skip)): (.+)")


def migrate(here: Installation, environment: dict[str, str]) -> None:
    """Bring Airflow's metadata to the installed version; once a version."""
    stamp = here.airflow_home / "migrated"
    version = next((ROOT / ".venv").glob("lib/python*/site-packages/apache_airflow_core-*.dist-info")).name
    if stamp.exists() and stamp.read_text() == version:
        with psycopg.connect(here.metadata, autocommit=True) as database:
            if metadata.is_made(database):
                return
    here.airflow_home.mkdir(parents=True, exist_ok=True)
    log = here.logs / "migrate.log"
    with log.open("w") as output:
        done = subprocess.run(["airflow", "db", "migrate"], env=environment, stdout=output, stderr=output, check=False)
    if done.returncode != 0:
        raise LocalError(f"Airflow could not set up its metadata; see {log}")
    stamp.write_text(version)


def run_dag(
    here: Installation, database: psycopg.Connection, environment: dict[str, str], console: Console, lock: int
) -> bool:
    """Run `airflow dags test elt_pipeline` and show each step as it ends.

    Args:
        here: The installation.
        database: A session on its metadata, in autocommit.
        environment: Of the child process.
        console: Where the steps are shown.
        lock: Descriptor that the child keeps open, so that nobody else starts a run if this process is killed.

    Returns:
        Whether the run, with at least one task, succeeded.
    """
    before = metadata.latest_run(database, DAG_ID)
    log = here.logs / f"run-{datetime.now(UTC):%Y%m%dT%H%M%S}.log"
    command = ["airflow", "dags", "test", DAG_ID]
    child = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        pass_fds=[lock],
    )
    try:
        with console.waiting(f"{DAG_ID} is being read") as say:
            failures = _follow(here, database, child, log, console, before, say)
            child.wait()
    except BaseException:
        console.line("\nEnding what runs")
        _end(child)
        raise
    number = metadata.latest_run(database, DAG_ID)
    tasks = metadata.tasks_of(database, number) if number > before else []
    if not tasks:
        console.line(f"\nNothing ran: Airflow made no task. Its output is in {log}")
        return False
    run_id, state = metadata.run_of(database, number)
    console.report(tasks, _loads(environment, run_id))
    if state == "success":
        console.what_next('make psql CMD="{}"', _models(Path(environment["DBT_TARGET_PATH"]) / "graph" / "graph.json"))
    console.line("The graph:   make ui")
    if state != "success":
        for name, error in failures.items():
            console.line(f"\n✗ {name}\n  {error}")
        console.line(f"\nThe run failed; its full log is {log}")
    return state == "success"


def _follow(
    here: Installation,
    database: psycopg.Connection,
    child: subprocess.Popen[str],
    log: Path,
    console: Console,
    before: int,
    say: Callable[[str], None],
) -> dict[str, str]:
    """Copy the child's output to `log` and to a log a task; show the tasks that end, and say which one runs.

    Returns:
        The failed ones with their last error.
    """
    failures: dict[str, str] = {}
    error = ""
    of_task: list[str] = []
    tasks: list[Task] = []
    with log.open("w") as file:
        for line in child.stdout or ():
            file.write(line)
            of_task.append(line)
            error = _error_of(line) or error
            if begun := _BEGUN.search(line):
                of_task = [line]
                say(f"{counted(tasks)}, {begun[1]}")
            if ended := _ENDED.search(line):
                number = metadata.latest_run(database, DAG_ID)
                tasks = metadata.tasks_of(database, number) if number > before else []
                task = next(task for task in tasks if (task.task_id, str(task.map_index)) == ended.groups())
                write_task_log(here, task, *metadata.attempt_of(database, number, task), of_task)
                if task.state in ("failed", "up_for_retry"):
                    error = metadata.error_of(database, number, task) or error
                if task.state == "failed":
                    failures[task.name] = error
                console.show(task, tasks, error)
                error = ""
    return failures


def write_task_log(here: Installation, task: Task, run_id: str, attempt: int, lines: list[str]) -> None:
    """Put what a task printed where Airflow's UI looks for the log of that try."""
    folder = here.airflow_home / "logs" / f"dag_id={DAG_ID}" / f"run_id={run_id}" / f"task_id={task.task_id}"
    if task.map_index >= 0:
        folder /= f"map_index={task.map_index}"
    folder.mkdir(parents=True, exist_ok=True)
    kept = (line for line in lines if not _OF_THE_RUN.search(line))
    (folder / f"attempt={attempt}.log").write_text("".join(map(_as_json, kept)))


def _as_json(line: str) -> str:
    """A line of the console as Airflow keeps it in a task's log; the rest of a longer message stays as it is."""
    found = _LINE.match(line)
    if not found:
        return line
    return json.dumps({"timestamp": found[1], "level": found[2], "event": _ORIGIN.sub("", found[3])}) + "\n"


def _error_of(line: str) -> str | None:
    found = _ERROR.match(line)
    return found[1].strip() if found else None


def _models(graph: Path) -> list[tuple[bool, str]]:
    """Whether each model is in the layer `marts`, and its relation."""
    nodes = json.loads(graph.read_text(encoding="utf-8"))["nodes"].values() if graph.exists() else ()
    return [(each["folder"] == "marts", ".".join(each["asset"])) for each in nodes if each["resource_type"] == "model"]


def _loads(environment: dict[str, str], run_id: str) -> Iterator[Any]:
    """Ledger rows of the run."""
    query = """
        select source, table_name, mode, rows_extracted, rows_inserted, rows_updated
        from _elt.load_ledger where run_id = %s order by load_id
    """
    uri = libpq_uri(environment["AIRFLOW_CONN_WAREHOUSE"])
    try:
        with psycopg.connect(uri, row_factory=namedtuple_row) as connection:
            yield from connection.execute(query, (run_id,)).fetchall()
    except psycopg.Error:
        return  # nothing was loaded: the failed task says why


def _end(child: subprocess.Popen[str]) -> None:
    """End the run and what it started; `airflow dags test` does not react to SIGTERM."""
    # SIGINT has a statement under way cancelled on its server; the run itself takes it for the failure of one task.
    for sent in (signal.SIGINT, signal.SIGKILL):
        if child.poll() is None:
            os.killpg(child.pid, sent)
            try:
                child.wait(timeout=1)
            except subprocess.TimeoutExpired:
                continue
