"""Where Airflow's UI shows a run, and the log of a task in it."""

from __future__ import annotations

from urllib.parse import quote


def run_path(dag_id: str, run_id: str) -> str:
    """Below the UI's base URL, with a slash in front."""
    return f"/dags/{dag_id}/runs/{quote(run_id, safe='')}"


def task_path(dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str:
    """As `run_path`; a `map_index` of -1 is a task that is not mapped."""
    mapped = f"/mapped/{map_index}" if map_index >= 0 else ""
    return f"{run_path(dag_id, run_id)}/tasks/{quote(task_id, safe='')}{mapped}"
