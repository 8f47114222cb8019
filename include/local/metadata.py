"""Airflow's SQLite metadata, read without importing Airflow: a run's task states while it goes on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from include.local.progress import Task


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
    """The tasks of a run, those that ended in this order."""
    query = """
        select ti.task_id, coalesce(custom_operator_name, operator), ti.state, coalesce(duration, 0), ti.map_index,
            json_extract(warning.value, '$')
        from task_instance ti
        join dag_run dr on ti.dag_id = dr.dag_id and ti.run_id = dr.run_id
        left join xcom warning on warning.dag_run_id = dr.id and warning.task_id = ti.task_id
            and warning.map_index = ti.map_index and warning.key = 'warning'
        where dr.id = ?
        order by ti.end_date
    """
    with _open(database) as connection:
        return [Task(*row) for row in connection.execute(query, (number,))]


def error_of(database: Path, number: int, task: Task) -> str | None:
    """Why a task of a run failed, where it could say so (include/orchestrate/failing.py)."""
    query = """
        select value from xcom where dag_run_id = ? and task_id = ? and map_index = ? and key = 'error'
    """
    with _open(database) as connection:
        row = connection.execute(query, (number, task.task_id, task.map_index)).fetchone()
    return json.loads(row[0]) if row else None


def attempt_of(database: Path, number: int, task: Task) -> tuple[str, int]:
    """Where a task's log belongs: its run's id, and which try it is on."""
    query = """
        select dr.run_id, ti.try_number
        from task_instance ti join dag_run dr on ti.dag_id = dr.dag_id and ti.run_id = dr.run_id
        where dr.id = ? and ti.task_id = ? and ti.map_index = ?
    """
    with _open(database) as connection:
        return connection.execute(query, (number, task.task_id, task.map_index)).fetchone()


def end_interrupted_runs(database: Path) -> int:
    """End the runs that an interrupted `make run` left open, with a note: no process works on them any more.

    What ran has failed. What had not begun never did, and keeps no state: the next run takes its place.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    with _open(database) as connection:
        is_open = "state = 'running' and triggered_by = 'TEST'"
        ours = f"run_id in (select run_id from dag_run where {is_open})"
        connection.execute(
            "update task_instance set state = 'failed', end_date = coalesce(end_date, ?),"
            " duration = coalesce(duration, (julianday(?) - julianday(start_date)) * 86400)"
            f" where state in ('running', 'up_for_retry') and {ours}",
            (now, now),
        )
        connection.execute(f"update task_instance set state = null where state in ('queued', 'scheduled') and {ours}")
        connection.execute(
            "insert or replace into dag_run_note (dag_run_id, content, created_at, updated_at)"
            f" select id, ?, ?, ? from dag_run where {is_open}",
            ("Interrupted. Nothing is lost: the next run goes on from here.", now, now),
        )
        return connection.execute(f"update dag_run set state = 'failed', end_date = ? where {is_open}", (now,)).rowcount
