"""The commands and tasks around the pipeline, on real servers, with Airflow's Variables as a dictionary."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from include import onboard
from include.operate.plan import Plan
from include.orchestrate import commands, maintenance, tasks
from include.sources import Tables
from include.sql import statement
from include.state import ledger
from include.state.messages import to_text
from include.state.watermark import BEGINNING
from tests.include.conftest import Pipeline
from tests.projects import write as write_project

KEY = "watermark__shop__orders"


@pytest.fixture
def variables(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The pipeline's databases behind Airflow connections, a table loaded once, and its Variables."""
    spec = pipeline.spec()
    pipeline.app.execute("insert into orders select n, n, '2026-01-01' from generate_series(1, 1000) n; analyze orders")
    mark = pipeline.run(spec, run_id="r0").mark
    assert mark is not None
    ledger.mark_published(pipeline.warehouse, spec)
    kept = {KEY: to_text(mark)}
    fake = SimpleNamespace(
        get=lambda key, default=None: kept.get(key, default),
        set=lambda key, value, description: kept.__setitem__(key, value),
    )
    for module in (commands, maintenance):
        monkeypatch.setattr(module, "Variable", fake)
    for module in (commands, tasks):
        monkeypatch.setattr(module, "load_tables", lambda: Tables({"source.elt.shop.orders": spec}, {}))
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", pipeline.source_dsn)
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", pipeline.warehouse_dsn)
    return kept


def test_plan_says_what_would_stop_with_its_exit_code(
    pipeline: Pipeline, variables: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["plan"]) == 0
    assert "  window  incremental: rows with updated_at from 20" in capsys.readouterr().out
    pipeline.app.execute("drop table orders")
    assert commands.main(["plan", "--table", "shop.orders"]) == 1
    assert "  STOPS   shop.orders: " in capsys.readouterr().out


def test_plan_opens_sessions_that_refuse_to_write(
    pipeline: Pipeline, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask(source, warehouse, spec, *_):
        asked.extend(each.execute("show transaction_read_only").fetchone()[0] for each in (source, warehouse))
        return Plan(spec.name)

    monkeypatch.setattr(maintenance, "plan_table", ask)
    commands.main(["plan"])
    assert asked == ["on", "on"]


def test_a_source_whose_sessions_cannot_be_seen_is_a_problem_of_each_table(
    pipeline: Pipeline, variables: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.app.execute("drop role if exists blind_reader; create role blind_reader login")
    pipeline.app.execute("grant select on orders to blind_reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_SHOP", pipeline.source_dsn + "&options=-c%20role%3Dblind_reader")
        assert commands.main(["plan"]) == 1
    assert "grant pg_read_all_stats to" in capsys.readouterr().out


def test_reconcile_fails_with_the_command_that_repairs_and_then_repairs(
    pipeline: Pipeline, variables: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.warehouse.execute("delete from raw_shop.orders where id = 7")
    assert commands.main(["reconcile"]) == 1
    said = capsys.readouterr().err
    assert "(7) in bucket" in said and "make reconcile TABLE=shop.orders REPAIR=1" in said
    assert commands.main(["reconcile", "--repair"]) == 0
    assert "1 inserted" in capsys.readouterr().out
    assert commands.main(["reconcile", "--table", "shop.orders"]) == 0
    pipeline.assert_equal()


def test_rewind_sets_the_variable_and_says_what_follows(
    pipeline: Pipeline, variables: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["rewind", "--table", "shop.orders", "--to", "beginning"]) == 0
    assert variables[KEY] == to_text(BEGINNING)
    assert "shop.orders: the next run is full: every row" in capsys.readouterr().out
    assert commands.main(["rewind", "--table", "shop.orders", "--to", "2025-12-01T00:00:00+00:00"]) == 0
    assert variables[KEY] == "2025-12-01T00:00:00.000000+00:00"
    assert "about 1,000 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rewind", "--table", "shop.orders"], "say which table and where to"),
        (["rewind", "--table", "shop.nope", "--to", "beginning"], "no dbt source lists a table 'shop.nope'"),
        (["rewind", "--table", "shop.orders", "--to", "2999-01-01T00:00:00Z"], "is not below the watermark"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_changes_nothing(
    variables: dict[str, str], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dict(variables)
    assert commands.main(arguments) == 1
    assert message in capsys.readouterr().err and variables == before


def test_a_rewind_is_honoured_although_the_last_load_died_before_it_showed_its_mark(
    pipeline: Pipeline, variables: dict[str, str]
) -> None:
    lowered = "2025-12-01T00:00:00.000000+00:00"
    pipeline.run(pipeline.spec(), run_id="died", variable=lowered)
    variables[KEY] = lowered
    assert pipeline.extract(pipeline.spec(), variable=lowered).rows_extracted == 0
    commands.main(["rewind", "--table", "shop.orders", "--to", lowered])
    assert pipeline.extract(pipeline.spec(), variable=variables[KEY]).rows_extracted == 1000


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_rewind_to_the_same_instant_again_is_not_undone_by_the_run_that_followed_the_first(
    pipeline: Pipeline, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    """Rows were corrected meanwhile, without their cursors; the Variable reads as when the run began."""
    monkeypatch.setattr(tasks, "Variable", maintenance.Variable)
    spec, lowered = pipeline.spec(), "2025-12-01T00:00:00.000000+00:00"
    rewind = ["rewind", "--table", "shop.orders", "--to", lowered]
    commands.main(rewind)
    batch = pipeline.extract(spec, variable=lowered)
    pipeline.app.execute("update orders set amount = 7")
    commands.main(rewind)
    result = pipeline.load(spec, batch)
    if not is_killed:
        tasks._publish_watermark(pipeline.warehouse, spec, result, lowered)
    assert variables[KEY] == lowered
    pipeline.run(spec, variable=variables[KEY])
    pipeline.assert_equal()


def test_a_rewind_waits_for_a_load_that_is_about_to_commit(
    pipeline: Pipeline, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else neither would see the other: the ledger's row came too late to be marked, and the rewind to be copied."""
    spec, lowered = pipeline.spec(), "2025-12-01T00:00:00.000000+00:00"
    batch, execute = pipeline.extract(spec, variable=lowered), pipeline.warehouse.execute
    waits = "select count(*) from pg_locks where not granted and pid <> pg_backend_pid()"

    def execute_and_rewind(query: Any, *values: Any) -> Any:
        done = execute(query, *values)
        if query is statement("record_load"):
            rewinds.append(pool.submit(commands.main, ["rewind", "--table", "shop.orders", "--to", lowered]))
            while pipeline.raw(waits) == [(0,)] and not rewinds[0].done():
                pass
        return done

    rewinds: list[Future[int]] = []
    monkeypatch.setattr(pipeline.warehouse, "execute", execute_and_rewind)
    with ThreadPoolExecutor() as pool:
        pipeline.load(spec, batch)
    assert rewinds[0].result() == 0
    last = ledger.last_mark(pipeline.warehouse, spec)
    assert last is not None and last.watermark_before == variables[KEY] and last.is_published


def test_the_task_of_reconcile(pipeline: Pipeline, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"tables": ["shop.orders"], "repair": False}
    monkeypatch.setattr(maintenance, "get_current_context", lambda: {"params": params, "run_id": "manual__1"})
    reconcile_table = maintenance.reconcile_table.function
    assert reconcile_table("shop.orders") is None
    pipeline.warehouse.execute("delete from raw_shop.orders where id = 7")
    with pytest.raises(AirflowFailException, match="trigger the DAG reconcile with `repair`"):
        reconcile_table("shop.orders")
    params["repair"] = True
    assert reconcile_table("shop.orders") == "shop.orders"
    assert reconcile_table("shop.orders") is None
    with pytest.raises(AirflowSkipException):
        reconcile_table("shop.customers")


def test_the_task_of_rewind(pipeline: Pipeline, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"table": "shop.orders", "to": "r0"}
    monkeypatch.setattr(maintenance, "get_current_context", lambda: {"params": params})
    assert "every row" in maintenance.rewind_table.function()
    assert variables[KEY] == to_text(BEGINNING)


def test_onboarding_shows_first_and_then_writes(
    pipeline: Pipeline,
    variables: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "dbt").mkdir()
    write_project(tmp_path / "dbt", {})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(commands, "PROJECT_DIR", tmp_path / "dbt")
    monkeypatch.setattr(onboard, "in_a_copy", lambda _: lambda _: None)  # takes ten seconds, and has a test of its own
    pipeline.app.execute("create table extra (id int primary key); create table other (id int)")
    for wrong, message in (
        ({"INCLUDE": "nope"}, "INCLUDE='nope' fits no table of source shop"),
        ({"CURSOR_ZONE": "Mars"}, "CURSOR_ZONE='Mars' is no time zone"),
        ({"TABLES": "it's"}, 'TABLES="it\'s": No closing quotation'),
        ({"SOURCE": "Shop; id"}, "write SOURCE=name"),
        ({"SOURCE": "nowhere"}, "no connection is called 'nowhere'"),
    ):
        with monkeypatch.context() as patch:
            for name, value in ({"SOURCE": "shop"} | wrong).items():
                patch.setenv(name, value)
            assert commands.main(["onboard"]) == 1 and message in capsys.readouterr().err
    command = ["onboard", "--source", "shop", "--include", "extra oth*", "--exclude", "other"]
    assert commands.main([*command, "--preview"]) == 0
    said = capsys.readouterr().out
    assert "shop.extra" in said and "public.other: EXCLUDE= says so" in said and "Nothing was written" in said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    monkeypatch.setattr(commands, "target_dir", lambda: tmp_path / "target")
    assert commands.main(command) == 0
    assert "Next: run deploy/grants/shop.source.sql and deploy/grants/shop.warehouse.sql" in capsys.readouterr().out
    assert (tmp_path / "dbt/models/staging/shop/stg_shop__extra.sql").exists()
    assert "shop.extra" in (tmp_path / "target/onboard_shop.txt").read_text()
