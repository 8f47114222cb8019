"""Under Airflow's own scheduler a run is late, and then fails: people are told of both, clear it and mark it.

Its deadline is open meanwhile, which Airflow itself cannot clear.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from queue import Empty
from urllib.parse import quote

import psutil
import psycopg
import pytest

from include.compose.airflow_api import Airflow
from tests.conftest import Checkout
from tests.e2e.conftest import BY_HAND, PATIENCE_SECONDS, served, spoil_orders
from tests.webhook import SECRET, Webhook, webhook

NOBODY = "http://127.0.0.1:1"
"""A proxy that loopback must not go through."""

DAG_ID = "elt_pipeline"
TEST = "staging.order_amount_equals_its_items"


@pytest.fixture(scope="module")
def hook() -> Iterator[Webhook]:
    with webhook() as made:
        yield made


@pytest.fixture(scope="module")
def airflow(with_one_test: Checkout, hook: Webhook) -> Iterator[Airflow]:
    spoil_orders(with_one_test)
    proxied = {"HTTP_PROXY": NOBODY, "http_proxy": NOBODY}
    with served(with_one_test, AIRFLOW_CONN_ALERTS=hook.url, **proxied, **BY_HAND) as started:
        yield started


@pytest.fixture(scope="module")
def failed(airflow: Airflow) -> str:
    """A run of which one dbt test failed, and what waits for it did not run."""
    run_id = airflow.trigger(DAG_ID)
    assert end_of(airflow, DAG_ID, run_id) == "failed"
    return run_id


def heard(hook: Webhook, end: str) -> str:
    try:
        return hook.texts.get(timeout=PATIENCE_SECONDS)
    except Empty:
        pytest.fail(f"nobody was told that {end}")


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
    query = "select count(*) from deadline d join dag_run r on r.id = d.dagrun_id where not d.missed and r.run_id = %s"
    with psycopg.connect(checkout.here.metadata) as metadata:
        return metadata.execute(query, (run_id,)).fetchone()[0]


def be_late(checkout: Checkout, run_id: str) -> None:
    """Put the run's deadline into the past."""
    ours = "where dagrun_id = (select id from dag_run where run_id = %s)"
    with psycopg.connect(checkout.here.metadata) as metadata:
        past = f"update deadline set deadline_time = '2026-01-01 00:00 UTC' {ours}"
        assert metadata.execute(past, (run_id,)).rowcount == 1


def of_run(run_id: str, rest: str = "", dag_id: str = DAG_ID) -> str:
    return f"/dags/{dag_id}/dagRuns/{quote(run_id)}{rest}"


def test_nothing_listens_to_other_machines(airflow: Airflow) -> None:
    services = psutil.Process().children(recursive=True)
    open_sockets = [each for service in services for each in service.net_connections("tcp")]
    assert {each.laddr.ip for each in open_sockets if each.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


def test_people_are_told_that_it_failed(airflow: Airflow, hook: Webhook, failed: str) -> None:
    lines = heard(hook, "the run failed").splitlines()
    assert lines[0].startswith("elt_pipeline failed: 1 of ")
    assert lines[1] == f"• {TEST}: 3 failing rows, kept in dbt_test_failures.order_amount_equals_its_items"
    assert lines[2].startswith(f"  {airflow.url}/dags/elt_pipeline/runs/manual__")
    assert lines[2].endswith(f"/tasks/{TEST}")
    assert set(hook.paths) == {f"/services/{SECRET}"}


def test_a_failed_task_is_cleared_and_what_depends_on_it_runs_again(
    with_one_test: Checkout, airflow: Airflow, failed: str
) -> None:
    before = states(airflow, failed)
    assert open_deadlines(with_one_test, failed) == 1
    cleared = set(airflow.clear(DAG_ID, failed, TEST))
    assert end_of(airflow, DAG_ID, failed) == "failed"
    after = states(airflow, failed)
    assert TEST in cleared and "marts_ready" in cleared
    assert after[TEST] == ("failed", before[TEST][1] + 1)
    untouched = after.keys() - cleared
    assert "shop.orders.load" in untouched
    assert {task: after[task] for task in untouched} == {task: before[task] for task in untouched}


def test_a_failed_run_is_cleared_as_a_whole(with_one_test: Checkout, airflow: Airflow, failed: str) -> None:
    before = states(airflow, failed)
    assert open_deadlines(with_one_test, failed) == 1
    airflow.call("POST", of_run(failed, "/clear"), {"dry_run": False, "only_failed": False})
    assert end_of(airflow, DAG_ID, failed) == "failed"
    after = states(airflow, failed)
    assert after["shop.orders.load"] == ("success", before["shop.orders.load"][1] + 1)
    assert after[TEST] == ("failed", before[TEST][1] + 1)


def test_what_failed_is_cleared_on_the_command_line(with_one_test: Checkout, airflow: Airflow, failed: str) -> None:
    before = states(airflow, failed)
    assert open_deadlines(with_one_test, failed) == 1
    clear = ["dags", "clear", DAG_ID, "--run-id", failed, "--only-failed", "--yes"]
    done = with_one_test.run("exec", "airflow", *clear, AIRFLOW__API__PORT=airflow.url.rpartition(":")[2])
    assert done.returncode == 0, done.stdout + done.stderr
    assert end_of(airflow, DAG_ID, failed) == "failed"
    assert states(airflow, failed)[TEST] == ("failed", before[TEST][1] + 1)


def test_marked_as_success_the_run_goes_on_from_there(with_one_test: Checkout, airflow: Airflow, failed: str) -> None:
    assert open_deadlines(with_one_test, failed) == 1
    airflow.call("PATCH", of_run(failed, f"/taskInstances/{TEST}"), {"new_state": "success"})
    assert end_of(airflow, DAG_ID, failed) == "success"
    assert states(airflow, failed)["marts_ready"][0] == "success"


def test_a_run_is_marked_while_it_runs_and_then_cleared(with_one_test: Checkout, airflow: Airflow, failed: str) -> None:
    run_id = airflow.trigger(DAG_ID)
    assert open_deadlines(with_one_test, run_id) == 1
    airflow.call("POST", of_run(run_id, "/clear"), {"dry_run": False, "only_failed": False})
    airflow.call("PATCH", of_run(run_id), {"state": "failed"})
    assert airflow.state(DAG_ID, run_id) == "failed"
    airflow.call("POST", of_run(run_id, "/clear"), {"dry_run": False, "only_failed": True})
    airflow.call("PATCH", of_run(run_id), {"state": "success"})
    assert end_of(airflow, DAG_ID, run_id) == "success"


def test_people_are_told_of_a_run_that_is_late(with_one_test: Checkout, airflow: Airflow, hook: Webhook) -> None:
    while not hook.texts.empty():
        hook.texts.get()
    run_id = airflow.trigger(DAG_ID)
    be_late(with_one_test, run_id)
    late = heard(hook, "the run is late")
    assert late.startswith("elt_pipeline is late: due by 2026-01-01 00:00 UTC, ") and run_id[-6:] in late
    airflow.call("PATCH", of_run(run_id), {"state": "failed"})


def test_a_run_that_is_late_is_cleared_of_another_dag_too(with_one_test: Checkout, airflow: Airflow) -> None:
    run_id = airflow.trigger("reconcile")
    be_late(with_one_test, run_id)
    airflow.call("POST", of_run(run_id, "/clear", "reconcile"), {"dry_run": False, "only_failed": False})
    assert end_of(airflow, "reconcile", run_id) == "success"
    airflow.call("PATCH", of_run(run_id, dag_id="reconcile"), {"state": "failed"})
    airflow.call("POST", of_run(run_id, "/clear", "reconcile"), {"dry_run": False, "only_failed": False})
    assert end_of(airflow, "reconcile", run_id) == "success"


def test_no_log_holds_the_address(with_one_test: Checkout, airflow: Airflow, failed: str) -> None:
    logs = [
        path
        for folder in (with_one_test.here.logs, with_one_test.here.airflow_home / "logs")
        for path in folder.rglob("*")
    ]
    texts = [path.read_text(errors="replace") for path in logs if path.is_file()]
    assert any("people were told" in text for text in texts)
    assert not any(SECRET in text for text in texts)
