"""Airflow's metadata, read without importing Airflow: a run's task states while it goes on.

Every function is given a session on the database, in autocommit: what is asked again is answered anew.
"""

from __future__ import annotations

from typing import Any, LiteralString

from psycopg import Connection

from include.local.progress import Task


def _one(database: Connection, query: LiteralString, *values: object) -> Any:
    """The one row of a query; None where there is none."""
    return database.execute(query, values).fetchone()


def is_made(database: Connection) -> bool:
    """Whether Airflow has made its tables."""
    return _one(database, "select to_regclass('alembic_version') is not null")[0]


def latest_run(database: Connection, dag_id: str) -> int:
    """Number of the DAG's newest run, 0 where it has none."""
    return _one(database, "select coalesce(max(id), 0) from dag_run where dag_id = %s", dag_id)[0]


def run_of(database: Connection, number: int) -> tuple[str, str]:
    """The run's id and state."""
    return _one(database, "select run_id, state from dag_run where id = %s", number)


def tasks_of(database: Connection, number: int) -> list[Task]:
    """The tasks of a run, those that ended in this order."""
    query = """
        select ti.task_id, coalesce(custom_operator_name, operator), ti.state, coalesce(duration, 0), ti.map_index,
            warning.value
        from task_instance ti
        join dag_run dr on ti.dag_id = dr.dag_id and ti.run_id = dr.run_id
        left join xcom warning on warning.dag_run_id = dr.id and warning.task_id = ti.task_id
            and warning.map_index = ti.map_index and warning.key = 'warning'
        where dr.id = %s
        order by ti.end_date
    """
    return [Task(*row) for row in database.execute(query, (number,))]


def error_of(database: Connection, number: int, task: Task) -> str | None:
    """Why a task of a run failed, where it could say so (include/orchestrate/failing.py)."""
    query = "select value from xcom where dag_run_id = %s and task_id = %s and map_index = %s and key = 'error'"
    row = _one(database, query, number, task.task_id, task.map_index)
    return row and row[0]


def attempt_of(database: Connection, number: int, task: Task) -> tuple[str, int]:
    """Where a task's log belongs: its run's id, and which try it is on."""
    query = """
        select dr.run_id, ti.try_number
        from task_instance ti join dag_run dr on ti.dag_id = dr.dag_id and ti.run_id = dr.run_id
        where dr.id = %s and ti.task_id = %s and ti.map_index = %s
    """
    return _one(database, query, number, task.task_id, task.map_index)


def end_interrupted_runs(database: Connection) -> int:
    """End the runs that an interrupted `make run` left open, with a note: no process works on them any more.

    What ran has failed. What had not begun never did, and keeps no state: the next run takes its place.
    """
    tasks = """
        update task_instance ti
        set state = case when ti.state in ('running', 'up_for_retry') then 'failed' end,
            end_date = case when ti.state in ('running', 'up_for_retry') then coalesce(ti.end_date, now()) end,
            duration = coalesce(duration, extract(epoch from now() - ti.start_date))
        from dag_run dr
        where ti.dag_id = dr.dag_id and ti.run_id = dr.run_id and dr.state = 'running' and dr.triggered_by = 'TEST'
            and ti.state in ('running', 'up_for_retry', 'queued', 'scheduled')
    """
    notes = """
        insert into dag_run_note (dag_run_id, content, created_at, updated_at)
        select id, 'Interrupted. Nothing is lost: the next run goes on from here.', now(), now()
        from dag_run where state = 'running' and triggered_by = 'TEST'
        on conflict (dag_run_id) do update set content = excluded.content, updated_at = now()
    """
    runs = "update dag_run set state = 'failed', end_date = now() where state = 'running' and triggered_by = 'TEST'"
    with database.transaction():
        database.execute(tasks)
        database.execute(notes)
        return database.execute(runs).rowcount
