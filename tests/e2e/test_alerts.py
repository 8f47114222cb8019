"""A run under Airflow's own scheduler that is late, and then fails: people are told of both."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from queue import Empty

import pytest

from include.compose.airflow_api import Airflow
from tests.conftest import Checkout
from tests.webhook import SECRET, Webhook, webhook

PATIENCE_SECONDS = 300
DAG_ID = "elt_pipeline"


@pytest.fixture(scope="module")
def hook() -> Iterator[Webhook]:
    with webhook() as made:
        yield made


@pytest.fixture(scope="module")
def airflow(checkout: Checkout, hook: Webhook) -> Iterator[Airflow]:
    """`make ui` on a shop in which the amounts of three orders are not those of their items."""
    checkout.run("shop")
    with checkout.source() as source:
        settled = "select id from orders where updated_at < now() - interval '1 hour' order by id limit 3"
        items = f"select min(id) from order_items where order_id in ({settled}) group by order_id"
        assert source.execute(f"update order_items set quantity = quantity + 1 where id in ({items})").rowcount == 3
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "ELT_STATE": str(checkout.here.state), "UI_PORT": str(port)}
    environment = {key: value for key, value in environment.items() if not key.startswith(("AIRFLOW_", "DBT_"))}
    environment["AIRFLOW_CONN_ALERTS"] = hook.url
    command = [sys.executable, "-m", "include.local", "ui"]
    with subprocess.Popen(
        command, cwd=checkout.root, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            assert child.stdout and "Airflow is at" in child.stdout.readline()
            yield Airflow(f"http://127.0.0.1:{port}", "admin", checkout.here.secrets()["admin"])
        finally:
            child.send_signal(signal.SIGINT)


def heard(hook: Webhook, end: str) -> str:
    try:
        return hook.texts.get(timeout=PATIENCE_SECONDS)
    except Empty:
        pytest.fail(f"nobody was told that {end}")


def test_people_are_told_of_a_run_that_is_late_and_of_one_that_failed(
    checkout: Checkout, airflow: Airflow, hook: Webhook
) -> None:
    run_id = airflow.trigger(DAG_ID)
    with sqlite3.connect(checkout.here.metadata, timeout=60) as metadata:
        ours = "(select id from dag_run where run_id = ?)"
        past = f"update deadline set deadline_time = '2026-01-01 00:00:00.000000' where dagrun_id = {ours}"
        assert metadata.execute(past, (run_id,)).rowcount == 1
    late = heard(hook, "the run is late")
    assert late.startswith("elt_pipeline is late: due by 2026-01-01 00:00 UTC, ") and run_id[-6:] in late
    lines = heard(hook, "the run failed").splitlines()
    test = "staging.order_amount_equals_its_items"
    assert lines[0].startswith("elt_pipeline failed: 1 of ")
    assert lines[1] == f"• {test}: 3 failing rows, kept in dbt_test_failures.order_amount_equals_its_items"
    assert lines[2].startswith(f"  {airflow.url}/dags/elt_pipeline/runs/manual__") and lines[2].endswith(
        f"/tasks/{test}"
    )
    assert set(hook.paths) == {f"/services/{SECRET}"}


def test_no_log_holds_the_address(checkout: Checkout, airflow: Airflow) -> None:
    logs = [path for folder in (checkout.here.logs, checkout.here.airflow_home / "logs") for path in folder.rglob("*")]
    texts = [path.read_text(errors="replace") for path in logs if path.is_file()]
    assert any("people were told" in text for text in texts)
    assert not any(SECRET in text for text in texts)
