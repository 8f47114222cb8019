"""Airflow's SQLite metadata, read without importing Airflow: a run's task states while it goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from include.progress import Task


@contextmanager
def _open(database: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        yield connection


def latest_run(database: Path, dag_id: str) -> int:
    """Number of the DAG's newest run, 0 where it has none."""
    with _open(database) as connection:
        row = connection.execute("select coalesce(max(id), 0) from dag_run where dag_id = ?", (dag_id,)).fetchone()
    return row[0]


def run_of(database: Path, number: int) -> tuple[str, str]:
    """The run's id and state."""
    with _open(database) as connection:
        return connection.execute("select run_id, state from dag_run where id = ?", (number,)).fetchone()


def tasks_of(database: Path, number: int) -> list[Task]:
    """The tasks of a run."""
    query = """
        select task_id, coalesce(custom_operator_name, operator), ti.state, coalesce(duration, 0), map_index
        from task_instance ti join dag_run dr on ti.dag_id = dr.dag_id and ti.run_id = dr.run_id
        where dr.id = ?
    """
    with _open(database) as connection:
        return [Task(*row) for row in connection.execute(query, (number,))]


def end_interrupted_runs(database: Path) -> int:
    """Mark runs that an interrupted `make run` left open as failed: no process works on them any more."""
    with _open(database) as connection:
        is_open = "state = 'running' and triggered_by = 'TEST'"
        connection.execute(
            "update task_instance set state = 'failed' "
            "where state in ('running', 'queued', 'scheduled', 'up_for_retry') "
            f"and run_id in (select run_id from dag_run where {is_open})"
        )
        ended = connection.execute(f"update dag_run set state = 'failed' where {is_open}")
        return ended.rowcount
