"""Celery: the tasks of one run on three workers, one of which is killed in the middle of a load."""

from __future__ import annotations

import subprocess

from tests.containers.conftest import DAG_ID, FirstRun, Stack, until

OPEN_RUNS = f"/dags/{DAG_ID}/dagRuns?state=running&state=queued"


def test_a_killed_worker_costs_a_retry_and_nothing_else(stack: Stack, first_run: FirstRun) -> None:
    until(lambda: not stack.airflow.call("GET", OPEN_RUNS)["dag_runs"], "the runs before to end")
    stack.compose("stop", "scheduler")
    stack.compose("--profile", "celery", "up", "--detach", "--wait", "--scale", "airflow-worker=3")
    assert len(stack.containers("airflow-worker")) == 3
    with stack.locked("raw_shop.orders"):
        assert "shop changed" in stack.compose("run", "--rm", "--no-TTY", "shop")
        run_id = stack.airflow.trigger(DAG_ID)
        stack.wait_for_blocked_load("raw_shop.orders")
        tasks = stack.airflow.tasks(DAG_ID, run_id)
        victim = next(task["hostname"] for task in tasks if task["task_id"] == "shop.orders.load")
        subprocess.run(["docker", "exec", victim, "bash", "-c", "kill -9 -1"], capture_output=True, check=False)
        # Looked up twice: one may begin just before the end, and on a busy machine a dead one may be noticed already.
        tasks += stack.airflow.tasks(DAG_ID, run_id)
        died = {task["task_id"] for task in tasks if is_on(victim, task)}
    done = stack.finish(run_id)
    # Whatever the worker had ended before, or had not begun, is untouched.
    retried = {task_id for task_id, task in done.items() if task["try_number"] > 1}
    assert {"shop.orders.load"} <= retried <= died
    assert all(task["try_number"] <= 2 for task in done.values())
    assert len({task["hostname"] for task in done.values()}) >= 2
    stack.assert_marts_equal_source()


def is_on(worker: str, task: dict[str, str]) -> bool:
    return task["state"] == "running" and task["hostname"] == worker
