"""What people are told, and that nothing suffers from a web hook that is missing, broken or deaf."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.xcom import XCom
from structlog.testing import capture_logs

from include.errors import ConfigError
from include.local.environment import ROOT
from include.orchestrate import alerts
from tests.webhook import SECRET, Webhook, webhook

RUN = "scheduled__2026-01-01T00:00:00+00:00"
UI = "http://127.0.0.1:8080/dags"
QUOTED = "scheduled__2026-01-01T00%3A00%3A00%2B00%3A00"


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    with webhook() as made:
        monkeypatch.setenv("AIRFLOW_CONN_ALERTS", made.url)
        yield made


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(str(ROOT / "dags"))


def late(**changes: Any) -> dict[str, Any]:
    """What Airflow hands on when a deadline has passed."""
    run: dict[str, Any] = {"dag_id": "elt_pipeline", "dag_run_id": RUN, "run_type": "scheduled", "state": "running"}
    run |= {"queued_at": "2026-01-02T00:00:00Z", "start_date": "2026-01-02T00:05:00Z", "end_date": None}
    return {"dag_run": run | changes, "deadline": {"deadline_time": datetime(2026, 1, 2, 2, tzinfo=UTC)}}


def failed(monkeypatch: pytest.MonkeyPatch, dag: DAG, states: dict[str, str], xcoms: dict[str, Any]) -> list[str]:
    """Lines of the message about a run whose tasks ended so."""
    answer = staticmethod(lambda dag_id, run_ids: {RUN: states} if states else {})
    monkeypatch.setattr(task_runner.RuntimeTaskInstance, "get_task_states", answer)
    monkeypatch.setattr(XCom, "get_one", lambda key, **place: xcoms.get(key))
    return alerts.failed_text(dag, RUN, "all_tasks_deadlocked").splitlines()


def test_a_failed_test_is_named_with_its_rows_and_its_log(bag: DagBag, monkeypatch: pytest.MonkeyPatch) -> None:
    states = {"shop.orders.unique_id": "failed", "staging.stg_shop__orders.run": "upstream_failed", "x": "success"}
    kept = {"failed_rows": 1234, "failing_rows": "unique_orders_id"}
    assert failed(monkeypatch, bag.dags["elt_pipeline"], states, kept) == [
        "elt_pipeline failed: 1 of 3 tasks, and 1 that wait for them",
        "• shop.orders.unique_id: 1,234 failing rows, kept in dbt_test_failures.unique_orders_id",
        f"  {UI}/elt_pipeline/runs/{QUOTED}/tasks/shop.orders.unique_id",
        f"The run: {UI}/elt_pipeline/runs/{QUOTED}",
    ]


def test_a_mapped_task_is_called_by_its_table_or_its_number(bag: DagBag, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = failed(monkeypatch, bag.dags["reconcile"], {"reconcile_2": "failed", "reconcile_0": "success"}, {})
    assert lines[1:3] == ["• reconcile shop.orders", f"  {UI}/reconcile/runs/{QUOTED}/tasks/reconcile/mapped/2"]
    lines = failed(monkeypatch, bag.dags["elt_pipeline"], {"shop.orders.extract_1": "failed"}, {})
    assert lines[1:3] == [
        "• shop.orders.extract 1",
        f"  {UI}/elt_pipeline/runs/{QUOTED}/tasks/shop.orders.extract/mapped/1",
    ]


def test_a_test_that_broke_has_no_rows_and_neither_has_a_load(bag: DagBag, monkeypatch: pytest.MonkeyPatch) -> None:
    states = dict.fromkeys(["shop.orders.load", "shop.orders.unique_id"], "failed")
    lines = failed(monkeypatch, bag.dags["elt_pipeline"], states, {})
    assert lines[1] == "• shop.orders.load" and lines[3] == "• shop.orders.unique_id"


def test_forty_failed_tasks_are_one_message_of_twenty(bag: DagBag, monkeypatch: pytest.MonkeyPatch) -> None:
    dag = bag.dags["elt_pipeline"]
    lines = failed(monkeypatch, dag, dict.fromkeys(sorted(dag.task_ids)[:40], "failed"), {})
    assert lines[0].startswith("elt_pipeline failed: 40 of 40 tasks")
    assert sum(line.startswith("• ") for line in lines) == 21 and "• and 20 more" in lines


def test_a_task_that_was_renamed_meanwhile_is_told_too(bag: DagBag, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = failed(monkeypatch, bag.dags["elt_pipeline"], {"shop.gone.load": "failed", "shop.gone_0": "failed"}, {})
    assert lines[1:3] == [f"• {key}, which the DAG no longer has" for key in ("shop.gone.load", "shop.gone_0")]


@pytest.fixture
def warning(bag: DagBag, monkeypatch: pytest.MonkeyPatch) -> tuple[DAG, str, dict[str, Any]]:
    """A DAG, a test in it that may warn, and what it has left."""
    dag = bag.dags["elt_pipeline"]
    test = dag.get_task("shop.orders.unique_id")
    monkeypatch.setitem(test.extra_context, "may_warn", True)
    left: dict[str, Any] = {"warning": "as the page says it", "failed_rows": 2, "failing_rows": "unique_orders_id"}
    monkeypatch.setattr(XCom, "get_one", lambda key, task_id, **_: left.get(key) if task_id == test.task_id else None)
    return dag, test.task_id, left


def test_what_warns_is_told_of_a_run_that_succeeded_and_of_one_that_failed(
    hook: Webhook, warning: tuple[DAG, str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dag, test, left = warning
    told = [
        "1 task warns",
        f"• {test}: 2 failing rows, kept in dbt_test_failures.unique_orders_id",
        f"  {UI}/elt_pipeline/runs/{QUOTED}/tasks/{test}",
        f"The run: {UI}/elt_pipeline/runs/{QUOTED}",
    ]
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", None, raising=False)
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "client")
    alerts.tell_warned({"dag": dag, "run_id": RUN})
    assert hook.texts.get(timeout=0).splitlines() == ["elt_pipeline succeeded", *told]
    answer = staticmethod(lambda dag_id, run_ids: {RUN: {"shop.products.load": "failed", test: "success"}})
    monkeypatch.setattr(task_runner.RuntimeTaskInstance, "get_task_states", answer)
    assert alerts.failed_text(dag, RUN, "").splitlines()[3:] == told
    left.clear()
    alerts.tell_warned({"dag": dag, "run_id": RUN})
    assert hook.texts.empty(), "of a run in which all is well nobody is told"


def test_a_run_that_no_task_failed_says_why(bag: DagBag, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "• all_tasks_deadlocked" in failed(monkeypatch, bag.dags["elt_pipeline"], {}, {})


def test_a_late_run_says_since_when(hook: Webhook) -> None:
    alerts.tell_late(late())
    alerts.tell_late(late(state="queued", start_date=None))
    where = f"\nThe run: {UI}/elt_pipeline/runs/{QUOTED}"
    due = "elt_pipeline is late: due by 2026-01-02 02:00 UTC, "
    assert hook.texts.get(timeout=0) == f"{due}running since 2026-01-02 00:05 UTC{where}"
    assert hook.texts.get(timeout=0) == f"{due}queued since 2026-01-02 00:00 UTC{where}"


@pytest.mark.parametrize("changes", [{"run_type": "backfill"}, {"state": "failed"}], ids=str)
def test_nobody_waits_for_a_backfill_or_for_what_failed(hook: Webhook, changes: dict[str, str]) -> None:
    alerts.tell_late(late(**changes))
    assert hook.paths == []


def test_without_the_connection_it_costs_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_ALERTS", raising=False)
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "client")
    with capture_logs() as logged:
        alerts.tell_late(late())
    assert [each["event"] for each in logged] == ["nobody was told: Airflow has no connection 'alerts'"]


def test_a_refusal_is_logged_without_the_address(hook: Webhook) -> None:
    hook.status = 500
    with capture_logs() as logged:
        alerts.tell_late(late())
    assert hook.paths == [f"/services/{SECRET}"]
    assert logged[-1]["log_level"] == "warning" and "500 Internal Server Error" in logged[-1]["event"]
    assert SECRET not in str(logged)


def test_nobody_listening_or_answering_ends_soon_and_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as deaf, capture_logs() as logged:
        for port in (1, deaf.getsockname()[1]):
            monkeypatch.setenv("AIRFLOW_CONN_ALERTS", f"http://127.0.0.1:{port}/{SECRET}")
            alerts.tell_late(late())
    assert [each["event"].rpartition(": ")[2] for each in logged] == ["ConnectionRefusedError", "TimeoutError"]
    assert SECRET not in str(logged)


@pytest.mark.parametrize(
    "given, url",
    [
        ("https://chat.example/services/T0/x", "https://chat.example/services/T0/x"),
        ("https://me.example:8443/a/b?v=1&sig=c%2Bd%3D", "https://me.example:8443/a/b?v=1&sig=c%2Bd%3D"),
        ('{"conn_type": "http", "host": "https://chat.example/x?y=1"}', "https://chat.example/x?y=1"),
    ],
)
def test_the_address_is_the_one_that_was_given(monkeypatch: pytest.MonkeyPatch, given: str, url: str) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ALERTS", given)
    found = alerts._connection()
    assert found and alerts.address(found) == url


@pytest.mark.parametrize("given", ["postgres://chat.example/x", "https://", "smtp://mail.example"])
def test_another_kind_of_connection_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ALERTS", given)
    with pytest.raises(ConfigError, match="write AIRFLOW_CONN_ALERTS=https://"):
        alerts.tell_late(late())


@pytest.mark.parametrize(
    "text", ["<!channel> <https://evil.example|log in>", "a\nb", "[x](https://evil.example)", "", 7]
)
def test_what_an_xcom_holds_is_no_markup(bag: DagBag, monkeypatch: pytest.MonkeyPatch, text: Any) -> None:
    states, kept = {"shop.orders.unique_id": "failed"}, {"failed_rows": 2, "failing_rows": text}
    lines = failed(monkeypatch, bag.dags["elt_pipeline"], states, kept)
    assert lines[1] == "• shop.orders.unique_id: 2 failing rows" and len(lines) == 4
    kept = {"failed_rows": text if isinstance(text, str) else None, "failing_rows": "t"}
    assert failed(monkeypatch, bag.dags["elt_pipeline"], states, kept)[1] == "• shop.orders.unique_id"


def test_a_message_is_plain_text_whatever_is_in_it(hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "late_text", lambda *_: "late <!here> a & b\n\x1b[31m\x00<https://x|y>")
    alerts.tell_late(late())
    assert [hook.texts.get(timeout=5)] == ["late &lt;!here&gt; a &amp; b\n [31m &lt;https://x|y&gt;"]
