"""The task wrappers: what a run was asked for, and what happens to the Variable after a load."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from airflow.sdk.exceptions import AirflowFailException

from include.errors import TerminalError, TransientError
from include.orchestrate import tasks
from include.sources import Tables, TableSpec
from include.state import ledger
from include.state.messages import Horizon, LoadResult, to_text
from tests.include.conftest import Pipeline

SPEC = TableSpec(source="shop", table="orders", identifier="orders", key=["id"], cursor="updated_at")
MARK = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
RESULT = LoadResult("shop", "orders", "incremental", MARK, 1, 1, 0, 0, MARK)


def context(run_type: str = "backfill", **params: Any) -> Any:
    return {
        "dag_run": SimpleNamespace(run_type=run_type, data_interval_start=DAY[0], data_interval_end=DAY[1]),
        "params": params,
    }


@pytest.mark.parametrize(("key", "mode"), [(["id"], "window"), ([], "full")])
def test_a_backfill_reads_a_table_without_a_key_whole(pipeline: Pipeline, key: list[str], mode: str) -> None:
    """Nothing tells which rows of raw its slice would replace."""
    spec, horizon = pipeline.spec(mode="full", key=key), pipeline.horizon()
    ledger.ensure(pipeline.warehouse, spec.raw_schema)
    assert tasks._window(context(), pipeline.warehouse, spec, None, horizon).mode == mode


def test_a_backfill_of_a_table_that_raw_lost_reads_all_of_it(pipeline: Pipeline) -> None:
    """Else the mark would stand again, over the rows of one day."""
    spec = pipeline.spec()
    pipeline.insert(1)
    pipeline.run(spec)
    assert tasks._window(context(), pipeline.warehouse, spec, None, pipeline.horizon()).mode == "window"
    pipeline.warehouse.execute("truncate raw_shop.orders")
    assert tasks._window(context(), pipeline.warehouse, spec, None, pipeline.horizon()).mode == "first"


@pytest.mark.parametrize(
    ("what_is_left", "rows_per_range"),
    [
        (lambda: tasks.extract.function("shop.orders", None), None),
        (lambda: tasks.load.function("shop.orders", None), None),
        (lambda: tasks.load.function("shop.orders", []), 100),
    ],
)
def test_where_the_task_before_was_marked_as_success_it_is_named(
    monkeypatch: pytest.MonkeyPatch, what_is_left: Callable[[], Any], rows_per_range: int | None
) -> None:
    spec = SPEC.model_copy(update={"rows_per_range": rows_per_range})
    monkeypatch.setattr(tasks, "load_tables", lambda: Tables({"": spec}, {}))
    monkeypatch.setattr(tasks, "get_current_context", lambda: context() | {"run_id": "mine"})
    with pytest.raises(
        AirflowFailException, match=r"shop\.(horizon|orders\.extract|orders\.cut) was marked as success"
    ):
        what_is_left()


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Airflow's Variables as a dictionary; `published` is added when the ledger is told."""
    kept: dict[str, str] = {}
    fake = SimpleNamespace(
        get=lambda key, default=None: kept.get(key, default),
        set=lambda key, value, description=None: kept.__setitem__(key, value),
    )
    monkeypatch.setattr(tasks, "Variable", fake)
    monkeypatch.setattr(tasks.ledger, "variable_lock", lambda *_: nullcontext())
    monkeypatch.setattr(tasks.ledger, "is_published", lambda *_: "published" in kept)
    monkeypatch.setattr(tasks.ledger, "mark_published", lambda *_: kept.__setitem__("published", "yes"))
    return kept


def test_a_zombie_leaves_alone_what_its_retry_has_staged(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def discard_leftovers(_: Any, __: Any, is_over: Any) -> None:
        asked.extend(map(is_over, ("mine", "finished")))
        raise TransientError("far enough")

    horizon = Horizon(MARK, MARK, True).to_json()
    ti = SimpleNamespace(get_dagrun_state=lambda _, run_id: {"mine": "running", "finished": "success"}[run_id])
    here = context() | {"run_id": "mine", "ti": ti}
    here["dag_run"].dag_id = "elt_pipeline"
    monkeypatch.setattr(tasks, "get_current_context", lambda: here)
    monkeypatch.setattr(tasks, "load_tables", lambda: Tables({"": SPEC}, {}))
    monkeypatch.setattr(tasks, "session", lambda *_, **__: nullcontext())
    monkeypatch.setattr(tasks.ledger, "ensure", lambda *_: None)
    monkeypatch.setattr(tasks.extractions, "discard_leftovers", discard_leftovers)
    with pytest.raises(TransientError):
        tasks.extract.function("shop.orders", horizon)
    assert asked == [False, True]


def publish(before: str | None, result: LoadResult = RESULT) -> None:
    tasks._publish_watermark(None, SPEC, result, before)  # type: ignore[arg-type]


def test_the_variable_shows_the_mark_and_the_ledger_is_told(variables: dict[str, str]) -> None:
    publish(before=None)
    assert variables == {SPEC.watermark_key: to_text(MARK), "published": "yes"}


def test_publishing_again_is_harmless(variables: dict[str, str]) -> None:
    publish(before=None)
    publish(before=None)
    assert variables[SPEC.watermark_key] == to_text(MARK)


def test_a_load_that_is_cleared_does_not_undo_a_later_edit_to_what_it_began_with(variables: dict[str, str]) -> None:
    began_with = "0001-01-01T00:00:00+00:00"
    for _ in range(2):
        variables[SPEC.watermark_key] = began_with
        publish(before=began_with)
    assert variables[SPEC.watermark_key] == began_with


def test_a_persons_edit_during_the_run_wins(variables: dict[str, str]) -> None:
    variables[SPEC.watermark_key] = "2025-01-01T00:00:00+00:00"
    publish(before="2026-02-01T00:00:00+00:00")
    assert variables == {SPEC.watermark_key: "2025-01-01T00:00:00+00:00"}


def test_a_load_without_a_mark_leaves_the_variable(variables: dict[str, str]) -> None:
    publish(None, LoadResult("shop", "orders", "window", None, 1, 1, 0, 0, MARK))
    assert variables == {}


def test_a_shadowed_variable_fails_the_task(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.Variable, "get", lambda key, default=None: "2020-01-01T00:00:00+00:00")
    with pytest.raises(TerminalError, match="remove AIRFLOW_VAR_WATERMARK__SHOP__ORDERS"):
        publish(before="2020-01-01T00:00:00+00:00")
    assert "published" not in variables


@pytest.mark.parametrize("edit", ["2025-01-01T00:00:00+00:00", None])
def test_a_persons_edit_the_moment_it_is_set_is_no_shadow(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, edit: str | None
) -> None:
    monkeypatch.setattr(tasks.Variable, "set", lambda key, value, description: edit and variables.update({key: edit}))
    publish(before=None)
    assert variables.get(SPEC.watermark_key) == edit and variables["published"] == "yes"


@pytest.mark.parametrize("error", [TerminalError("x"), psycopg.errors.InsufficientPrivilege("x")])
def test_what_a_retry_cannot_mend_fails_at_once(error: Exception) -> None:
    with pytest.raises(AirflowFailException), tasks.no_retry_for_terminal_errors():
        raise error


@pytest.mark.parametrize("error", [TransientError("x"), psycopg.OperationalError("x")])
def test_what_the_outside_broke_is_retried(error: Exception) -> None:
    with pytest.raises(type(error)), tasks.no_retry_for_terminal_errors():
        raise error


def test_a_lock_that_is_not_to_be_had_is_named_with_its_table_and_holder(pipeline: Pipeline) -> None:
    spec = pipeline.spec()
    pipeline.insert(1)
    pipeline.run(spec)
    batch = pipeline.extract(spec)
    for session in (pipeline.source, pipeline.warehouse):
        session.execute("set lock_timeout = 1")
    places = ((pipeline.source_dsn, "public.orders"), (pipeline.warehouse_dsn, "raw_shop.orders"))
    for number, (dsn, table) in enumerate(places):
        with psycopg.connect(dsn, application_name="a migration") as holder:
            holder.execute(f"lock table {table} in access exclusive mode")
            who = rf"in (shop|warehouse), pid {holder.info.backend_pid}, postgres 'a migration', idle in transaction"
            with pytest.raises(TransientError, match=f"orders: .*lock timeout: {who}, since .* holds .* on {table}"):
                with tasks._naming_what_is_in_the_way(spec, pipeline.warehouse, None if number else pipeline.source):
                    pipeline.load(spec, batch) if number else pipeline.extract(spec)
    with psycopg.connect(pipeline.warehouse_dsn) as holder:
        ledger.lock(holder, spec.name)
        with pytest.raises(TransientError, match=f"pid {holder.info.backend_pid}, .* on the lock of shop.orders"):
            with tasks._naming_what_is_in_the_way(spec, pipeline.warehouse):
                pipeline.load(spec, batch)
    pipeline.load(spec, batch)
    pipeline.assert_equal()


def test_a_process_that_carries_out_the_whole_run_says_that_it_lives(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "session", lambda _: nullcontext(pipeline.connect_warehouse()))
    monkeypatch.setattr(tasks, "_owners", {})
    ledger.ensure(pipeline.warehouse, pipeline.spec().raw_schema)
    for _ in range(2):
        tasks._own("test_run")
        tasks._owners["test_run"].close()  # a server that was restarted
    tasks._own("test_run")
    pipeline.extract(pipeline.spec(), run_id="test_run")
    pipeline.extract(pipeline.spec(), run_id="another")
    assert pipeline.raw("select run_id from _elt.extraction where has_owner") == [("test_run",)]
