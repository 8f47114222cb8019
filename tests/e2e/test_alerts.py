"""A run under Airflow's own scheduler that is late, and then fails: people are told of both."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from queue import Empty

import pytest

from include.compose.airflow_api import Airflow
from tests.conftest import Checkout
from tests.e2e.conftest import PATIENCE_SECONDS, served, spoil_orders
from tests.webhook import SECRET, Webhook, webhook

DAG_ID = "elt_pipeline"


@pytest.fixture(scope="module")
def hook() -> Iterator[Webhook]:
    with webhook() as made:
        yield made


@pytest.fixture(scope="module")
def airflow(checkout: Checkout, hook: Webhook) -> Iterator[Airflow]:
    spoil_orders(checkout)
    with served(checkout, AIRFLOW_CONN_ALERTS=hook.url) as started:
        yield started


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
