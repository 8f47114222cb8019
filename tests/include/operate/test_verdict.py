"""The verdict on the page Pipeline health: a number, the worst first, and what to do about each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from include.operate import verdict
from include.operate.health import Limits, Source, Table
from include.operate.verdict import DagState, Failure, Finding
from include.sources import TableSpec
from include.state.ledger import Gap

NOW = datetime(2026, 1, 13, tzinfo=UTC)
SPEC = TableSpec(source="shop", table="orders", identifier="orders", key=["id"], cursor="updated_at")
TABLES = [SPEC, *(SPEC.model_copy(update={"table": name}) for name in ("customers", "order_items", "products"))]
LIMITS = Limits(timedelta(hours=36), timedelta(hours=72))
LOADED = [SimpleNamespace(run_id="r")]
CLERK = SimpleNamespace(
    holder="pid 7",
    ending="select pg_terminate_backend(7)",
    role="clerk",
    application_name="till",
    state="active",
    since=NOW,
)


def table(**facts: Any) -> list[Finding]:
    return list(verdict.of_table(Table(SPEC, **{"loads": LOADED, **facts}), LIMITS))


def kinds(findings: Any) -> list[str]:
    return [finding.kind for finding in findings]


def test_all_is_well_only_with_no_finding_and_says_what_was_looked_at() -> None:
    assert verdict.sentence([], "4 tables") == "All is well: 4 tables."
    assert table(age=timedelta(hours=1)) == []


def test_one_sentence_counts_by_kind_the_worst_first() -> None:
    found = [Finding(kind, "x", "", "") for kind in ("held", "failed", "paused", "failed", "stale")]
    assert verdict.sentence(found, "") == "5 things need you: 2 failed, 1 stale, 1 paused, 1 held."
    assert verdict.sentence(found[:1], "") == "1 thing needs you: 1 held."
    assert kinds(verdict.worst_first(found)) == ["failed", "failed", "stale", "paused", "held"]


@pytest.mark.parametrize(
    ("task_id", "about"),
    [
        ("shop.horizon", "source shop, all its tables (4)"),
        ("shop.orders.extract", "table shop.orders"),
        ("shop.orders.unique_id", "table shop.orders"),
        ("shop.relationships_order_id", "shop.relationships_order_id"),
        ("staging.stg_shop__orders.run", "stg_shop__orders"),
        ("marts.fct_sales.unique_order_item_id", "fct_sales"),
        ("staging.order_amount_equals_its_items", "staging.order_amount_equals_its_items"),
        ("check_parameters", "what the run was asked for"),
        ("marts_ready", "marts_ready"),
    ],
)
def test_a_failed_task_counts_for_what_it_stands_for(task_id: str, about: str) -> None:
    (found,) = verdict.of_failures([Failure("r", task_id)], TABLES)
    assert (found.kind, found.about) == ("failed", about) and found.remedy


def test_a_horizon_stands_for_every_table_of_its_source_and_no_other() -> None:
    horizon, elsewhere = Failure("r", "shop.horizon"), SPEC.model_copy(update={"source": "shops"})
    assert horizon.stands_for(SPEC) and not horizon.stands_for(elsewhere)
    assert Failure("r", "shop.orders.load").stands_for(SPEC)
    assert not Failure("r", "shop.order_items.load").stands_for(SPEC)


def test_what_a_task_said_and_what_to_do_then() -> None:
    failures = [
        Failure("r", "shop.orders.extract", error="column x: alter table …"),
        Failure("r", "shop.orders.unique_id", table="unique_orders_id"),
        Failure("r", "shop.orders.load", state="up_for_retry"),
        Failure("r", "reconcile", dag_id="reconcile", map_index=1, label="shop.orders"),
        Failure("r", "marts.fct_sales.positive", state="success", error="dbt test positive warns of 2 rows"),
    ]
    extract, test, load, reconcile, warning = verdict.of_failures(failures, TABLES)
    assert extract.text == "column x: alter table …" and "clear the task with Downstream" in extract.remedy
    assert "Correct its rows in the source" in test.remedy
    assert load.kind == "tries again" and "by itself" in load.remedy
    assert reconcile.about == "reconcile, shop.orders"
    assert (warning.kind, warning.about, warning.text) == ("warns", "fct_sales", "dbt test positive warns of 2 rows")
    assert not warning.is_bad


def test_twelve_days_without_a_load_are_stale_by_the_sources_own_limit() -> None:
    (stale,) = table(age=timedelta(days=12))
    assert stale.kind == "stale" and "12 days ago" in stale.text and "72 hours at most" in stale.text
    assert kinds(table(age=timedelta(hours=40))) == ["due"]


def test_what_the_ledger_says_of_a_table() -> None:
    assert kinds(table(loads=[])) == ["never loaded"]
    assert table(loads=[], extractions=[object()]) == []
    (gap,) = table(gaps=[Gap(None, NOW)])
    assert gap.kind == "gap" and "make rewind TABLE=shop.orders TO=beginning" in gap.remedy
    assert kinds(table(difference="the ledger decides")) == ["Variable"]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (DagState("elt_pipeline", True, has_run=True, next_at=NOW), []),
        (DagState("elt_pipeline", True, has_run=True, next_at=NOW - timedelta(minutes=11)), ["late"]),
        (DagState("elt_pipeline", True, waiting=1, next_at=NOW - timedelta(days=1)), []),
        (DagState("elt_pipeline", True, is_paused=True, has_run=True), ["paused"]),
        (DagState("rewind", False, is_paused=True), []),
        (DagState("rewind", False, is_paused=True, waiting=1), ["paused"]),
        (DagState("elt_pipeline", True, waiting=1, overdue=["r"]), ["late"]),
        (DagState("elt_pipeline", True, is_there=False), ["failed"]),
        (DagState("elt_pipeline", True, is_there=False, broken="line 3: x"), ["failed"]),
    ],
)
def test_a_dag_that_is_off_late_or_not_there(state: DagState, expected: list[str]) -> None:
    assert kinds(verdict.of_dag(state, NOW)) == expected


def test_a_dag_that_was_never_switched_on_says_so_and_who_waits_for_it() -> None:
    (never,) = verdict.of_dag(DagState("elt_pipeline", True, is_paused=True), NOW)
    assert "never switched on" in never.text and never.remedy == "Switch it on."
    (waited,) = verdict.of_dag(DagState("elt_pipeline", True, is_paused=True, has_run=True, waiting=5), NOW)
    assert "5 runs wait for that" in waited.text


def test_who_holds_is_named_or_nothing_is_said() -> None:
    (held,) = verdict.of_source(Source("shop", NOW, timedelta(minutes=2), [CLERK]))
    assert held.kind == "held" and held.text.startswith("pid 7, role clerk, application till is in a transaction")
    assert list(verdict.of_source(Source("shop", NOW, timedelta(seconds=47), [CLERK]))) == []
    assert list(verdict.of_source(Source("shop", NOW, timedelta(minutes=2), []))) == []
    assert kinds(verdict.of_source(Source("shop", problem="no answer"))) == ["unseen"]


def test_a_variable_that_stops_its_table_is_said_once() -> None:
    said = f"Variable {SPEC.watermark_key} is 'x', not an ISO instant; repair it"
    [alone] = table(variable="x", difference=said)
    assert (alone.kind, alone.text, alone.remedy) == ("Variable", said, "")
    found = Table(SPEC, loads=LOADED, variable="x", difference=said)
    assert kinds(verdict.of_table(found, LIMITS, [Failure("r", "shop.orders.extract", error=said)])) == []
