"""A run that failed, or still runs, is cleared and marked under Airflow's own scheduler, while its deadline is open."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from include.compose.airflow_api import Airflow
from tests.conftest import Checkout
from tests.e2e.conftest import PATIENCE_SECONDS, served, spoil_orders

NOBODY = "http://127.0.0.1:1"
"""A proxy that loopback must not go through."""

DAG_ID = "elt_pipeline"
TEST = "staging.order_amount_equals_its_items"


@pytest.fixture(scope="module")
def airflow(checkout: Checkout) -> Iterator[Airflow]:
    spoil_orders(checkout)
    with served(checkout, HTTP_PROXY=NOBODY, http_proxy=NOBODY) as started:
        yield started


@pytest.fixture(scope="module")
def failed(airflow: Airflow) -> str:
    """A run of which one dbt test failed, and what waits for it did not run."""
    run_id = airflow.trigger(DAG_ID)
    assert end_of(airflow, DAG_ID, run_id) == "failed"
    return run_id


def end_of(airflow: Airflow, dag_id: str, run_id: str) -> str:
    end = time.monotonic() + PATIENCE_SECONDS
    for _ in airflow.follow(dag_id, run_id):
        assert time.monotonic() < end, f"{dag_id} {run_id} did not end"
    return airflow.state(dag_id, run_id)


def states(airflow: Airflow, run_id: str) -> dict[str, tuple[str, int]]:
    """Of each task its state and how often it was tried."""
    return {task["task_id"]: (task["state"], task["try_number"]) for task in airflow.tasks(DAG_ID, run_id)}


def open_deadlines(checkout: Checkout, run_id: str) -> int:
    """How many deadlines of the run Airflow still waits for: what the request fails on."""
    query = "select count(*) from deadline d join dag_run r on r.id = d.dagrun_id where not d.missed and r.run_id = ?"
    with sqlite3.connect(checkout.here.metadata, timeout=60) as metadata:
        return metadata.execute(query, (run_id,)).fetchone()[0]


def of_run(run_id: str, rest: str = "", dag_id: str = DAG_ID) -> str:
    return f"/dags/{dag_id}/dagRuns/{quote(run_id)}{rest}"


def test_a_failed_task_is_cleared_and_what_depends_on_it_runs_again(
    checkout: Checkout, airflow: Airflow, failed: str
) -> None:
    before = states(airflow, failed)
    assert open_deadlines(checkout, failed) == 1
    cleared = set(airflow.clear(DAG_ID, failed, TEST))
    assert end_of(airflow, DAG_ID, failed) == "failed"
    after = states(airflow, failed)
    assert TEST in cleared and "marts_ready" in cleared
    assert after[TEST] == ("failed", before[TEST][1] + 1)
    untouched = after.keys() - cleared
    assert "shop.orders.load" in untouched
    assert {task: after[task] for task in untouched} == {task: before[task] for task in untouched}


def test_a_failed_run_is_cleared_as_a_whole(checkout: Checkout, airflow: Airflow, failed: str) -> None:
    before = states(airflow, failed)
    assert open_deadlines(checkout, failed) == 1
    airflow.call("POST", of_run(failed, "/clear"), {"dry_run": False, "only_failed": False})
    assert end_of(airflow, DAG_ID, failed) == "failed"
    after = states(airflow, failed)
    assert after["shop.orders.load"] == ("success", before["shop.orders.load"][1] + 1)
    assert after[TEST] == ("failed", before[TEST][1] + 1)


def test_what_failed_is_cleared_on_the_command_line(checkout: Checkout, airflow: Airflow, failed: str) -> None:
    before = states(airflow, failed)
    assert open_deadlines(checkout, failed) == 1
    clear = ["dags", "clear", DAG_ID, "--run-id", failed, "--only-failed", "--yes"]
    done = checkout.run("exec", "airflow", *clear, AIRFLOW__API__PORT=airflow.url.rpartition(":")[2])
    assert done.returncode == 0, done.stdout + done.stderr
    assert end_of(airflow, DAG_ID, failed) == "failed"
    assert states(airflow, failed)[TEST] == ("failed", before[TEST][1] + 1)


def test_marked_as_success_the_run_goes_on_from_there(checkout: Checkout, airflow: Airflow, failed: str) -> None:
    assert open_deadlines(checkout, failed) == 1
    airflow.call("PATCH", of_run(failed, f"/taskInstances/{TEST}"), {"new_state": "success"})
    assert end_of(airflow, DAG_ID, failed) == "success"
    assert states(airflow, failed)["marts_ready"][0] == "success"


def test_a_run_is_marked_while_it_runs_and_then_cleared(checkout: Checkout, airflow: Airflow, failed: str) -> None:
    run_id = airflow.trigger(DAG_ID)
    assert open_deadlines(checkout, run_id) == 1
    airflow.call("POST", of_run(run_id, "/clear"), {"dry_run": False, "only_failed": False})
    airflow.call("PATCH", of_run(run_id), {"state": "failed"})
    assert airflow.state(DAG_ID, run_id) == "failed"
    airflow.call("POST", of_run(run_id, "/clear"), {"dry_run": False, "only_failed": True})
    airflow.call("PATCH", of_run(run_id), {"state": "success"})
    assert end_of(airflow, DAG_ID, run_id) == "success"


def test_a_run_that_is_late_is_cleared_of_another_dag_too(checkout: Checkout, airflow: Airflow) -> None:
    run_id = airflow.trigger("reconcile")
    ours = "where dagrun_id = (select id from dag_run where run_id = ?)"
    with sqlite3.connect(checkout.here.metadata, timeout=60) as metadata:
        past = f"update deadline set deadline_time = '2026-01-01 00:00:00.000000' {ours}"
        assert metadata.execute(past, (run_id,)).rowcount == 1
    airflow.call("POST", of_run(run_id, "/clear", "reconcile"), {"dry_run": False, "only_failed": False})
    assert end_of(airflow, "reconcile", run_id) == "success"
    airflow.call("PATCH", of_run(run_id, dag_id="reconcile"), {"state": "failed"})
    airflow.call("POST", of_run(run_id, "/clear", "reconcile"), {"dry_run": False, "only_failed": False})
    assert end_of(airflow, "reconcile", run_id) == "success"
