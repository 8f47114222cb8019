"""Celery: the tasks of one run on three workers, one of which is killed in a load; ranges of one table on several."""

from __future__ import annotations

import subprocess
from itertools import combinations
from typing import Any

import pytest

from include.local.progress import ENDED
from tests.containers.conftest import DAG_ID, FirstRun, Stack, until

ROWS = 1_900_000
"""Orders to add: enough for four ranges of the 500,000 rows that the table's entry asks for."""

CONTENT = """
    select count(*), sum(('x' || left(md5(row(id, customer_id, amount, status, created_at, updated_at)::text), 15))
        ::bit(60)::bigint) from {}.orders
"""

OPEN_RUNS = f"/dags/{DAG_ID}/dagRuns?state=running&state=queued"


@pytest.fixture(scope="module")
def workers(stack: Stack, first_run: FirstRun) -> None:
    """Three workers in place of the scheduler's own processes."""
    until(lambda: not stack.airflow.call("GET", OPEN_RUNS)["dag_runs"], "the runs before to end")
    stack.compose("stop", "scheduler")
    stack.compose("--profile", "celery", "up", "--detach", "--wait", "--scale", "airflow-worker=3")
    assert len(stack.containers("airflow-worker")) == 3


def test_a_killed_worker_costs_a_retry_and_nothing_else(stack: Stack, workers: None) -> None:
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


def test_ranges_of_one_table_run_on_different_workers_at_once(stack: Stack, workers: None) -> None:
    orders = f"""
        insert into public.orders (customer_id, amount, status, updated_at)
        select 1 + n % 200, 0, 'paid', now() - n * interval '1 second' from generate_series(1, {ROWS}) as n;
        analyze public.orders
    """
    assert stack.psql("shop_app", orders) == ""
    run_id = stack.airflow.trigger(DAG_ID, {"full_refresh": True})
    until(lambda: tasks_of(stack, run_id, "shop.orders.load")[0]["state"] in ENDED, "the orders to be loaded")
    found = tasks_of(stack, run_id, "shop.orders.extract")
    assert {task["map_index"]: task["state"] for task in found} == dict.fromkeys(range(4), "success")
    assert {task["rendered_map_index"] for task in found} == {f"{number} of 4" for number in range(1, 5)}
    assert any(
        one["hostname"] != other["hostname"] and overlap(one, other) for one, other in combinations(found, 2)
    ), found
    rows, content = stack.psql("shop_app", CONTENT.format("public")).split("|")
    assert int(rows) > ROWS and stack.psql("raw_loader", CONTENT.format("raw_shop")) == f"{rows}|{content}"


def tasks_of(stack: Stack, run_id: str, task_id: str) -> list[dict[str, Any]]:
    return [task for task in stack.airflow.tasks(DAG_ID, run_id) if task["task_id"] == task_id]


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return max(one["start_date"], other["start_date"]) < min(one["end_date"], other["end_date"])


def is_on(worker: str, task: dict[str, str]) -> bool:
    return task["state"] == "running" and task["hostname"] == worker
