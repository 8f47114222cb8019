"""dbt invoked again and again in one process: as if each time were the first, for less."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import psycopg2
import pytest
from airflow.sdk.exceptions import AirflowException
from dbt.cli.main import dbtRunnerResult
from dbt_common.events.base_types import BaseEvent, EventLevel
from dbt_common.events.event_manager import EventManager
from psycopg import sql

from include import dbt_project, dbt_runner, dbt_tasks
from tests.conftest import Postgres

PROJECT = "{name: elt, profile: elt, models: {+materialized: table}, flags: {send_anonymous_usage_stats: false}}"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dbt project of one model, which says where it was built."""
    shutil.copy(dbt_project.PROJECT_DIR / "profiles.yml", tmp_path)
    (tmp_path / "dbt_project.yml").write_text(PROJECT)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/place.sql").write_text("select current_database() as name, '{{ target.dbname }}' as target")
    monkeypatch.setattr(dbt_project, "PROJECT_DIR", tmp_path)
    monkeypatch.setattr(dbt_runner, "PROJECT_DIR", tmp_path)
    monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path / "target"))
    return tmp_path


def build(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = attempt(dsn, monkeypatch)
    assert done.success, done.exception or done.result.results


def attempt(dsn: str, monkeypatch: pytest.MonkeyPatch) -> dbtRunnerResult:
    profile = dbt_project.profile_environment(dsn)
    for name, value in profile.items():
        monkeypatch.setenv(name, value)
    with TemporaryDirectory() as folder:
        return dbt_runner.invoke(["run", "--select", "place"], folder, dbt_project.load_manifest(profile["DBT_DBNAME"]))


def test_each_invocation_works_where_its_own_connection_leads(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    for dsn in (postgres.database(), postgres.database()):
        build(dsn, monkeypatch)
        with psycopg.connect(dsn) as warehouse:
            names.append(
                warehouse.execute(
                    "select current_database() = all (array[name, target]) from analytics.place"
                ).fetchone()
            )
    assert names == [(True,), (True,)]


def test_another_invocation_compiles_no_text_again_and_connects_for_its_node_alone(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = postgres.database()
    monkeypatch.setattr(dbt_runner, "_compiled", {})
    for _ in range(2):  # what replaces a table is another text than what makes it
        build(dsn, monkeypatch)
    compiled = set(dbt_runner._compiled)
    assert any("DBT_HOST" in text for _, text in compiled), "dbt has its profile compiled elsewhere: see _compile_once"
    connected: list[Any] = []
    connect = psycopg2.connect
    monkeypatch.setattr(psycopg2, "connect", lambda *args, **kwargs: connected.append(0) or connect(*args, **kwargs))
    build(dsn, monkeypatch)
    assert set(dbt_runner._compiled) == compiled
    assert len(connected) == 1, "for the node, not for hooks and schemas: see _run_hooks_if_any, _create_schemas_once"


def test_hooks_of_a_project_that_has_them_run(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = "on-run-start: create table first (), on-run-end: 'create table last as select * from analytics.place'"
    (project / "dbt_project.yml").write_text(PROJECT.replace("{", "{" + hooks + ", ", 1))
    dsn = postgres.database()
    build(dsn, monkeypatch)
    with psycopg.connect(dsn) as warehouse:
        assert warehouse.execute("select count(*) from first, last").fetchone() == (0,)
        assert warehouse.execute("select count(*) from last").fetchone() == (1,)


def test_events_that_nobody_sees_are_not_written(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fired: list[EventLevel] = []
    fire_event = dbt_runner._fire_event

    def watched(manager: EventManager, event: BaseEvent, level: EventLevel | None, *rest: Any, **more: Any) -> None:
        fired.append(level or event.level_tag())
        fire_event(manager, event, level, *rest, **more)

    monkeypatch.setattr(dbt_runner, "_fire_event", watched)
    dsn = postgres.database()
    build(dsn, monkeypatch)
    assert set(fired) == {EventLevel.INFO}
    assert "1 of 1 OK created sql table model analytics.place" in capsys.readouterr().out
    monkeypatch.setenv("DBT_DEBUG", "1")
    build(dsn, monkeypatch)
    assert EventLevel.DEBUG in fired
    assert 'drop table if exists "' in capsys.readouterr().out


def ends(result: dbtRunnerResult) -> type[AirflowException]:
    """How the task ends: failed for good, or to be tried again."""
    with pytest.raises(AirflowException) as raised:
        dbt_tasks.DbtRun.conclude(object(), result)  # type: ignore[arg-type]
    return type(raised.value)


FAIL = """
    create function public.fail() returns int language plpgsql as $$ begin
        if current_setting('elt.fail') = 'end' then perform pg_terminate_backend(pg_backend_pid()); end if;
        raise exception 'Zeitüberschreitung, terminating connection' using errcode = current_setting('elt.fail');
    end $$"""


def test_the_sqlstate_says_what_is_tried_again_not_the_text(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "{% if execute and env_var('DBT_WRONG', '') %}{{ exceptions.raise_compiler_error('timeout') }}{% endif %}"
    (project / "models/place.sql").write_text(f"select public.fail() as failed {wrong}")
    profiles = project / "profiles.yml"
    profiles.write_text(profiles.read_text().replace("retries: 3", "retries: 0"))
    dsn = postgres.database("dbt_in")
    ended: dict[str, type[AirflowException]] = {}
    with psycopg.connect(dsn, autocommit=True) as warehouse:
        warehouse.execute(FAIL)
        for state in ("55P03", "40P01", "end", "42P01", "23505"):
            warehouse.execute(sql.SQL("alter database dbt_in set elt.fail = {}").format(sql.Literal(state)))
            ended[state] = ends(attempt(dsn, monkeypatch))
        warehouse.execute("drop role if exists dbt_in; create role dbt_in login password 'right'")
    place = f"dbt_in:right@127.0.0.1:{postgres.server.port}"
    ended["no such database"] = ends(attempt(f"postgresql://{place}/nowhere", monkeypatch))
    ended["server down"] = ends(attempt("postgresql://dbt_in@127.0.0.1:1/dbt_in", monkeypatch))
    monkeypatch.setenv("DBT_WRONG", "yes")
    ended["wrong project"] = ends(attempt(dsn, monkeypatch))
    passes = {state for state, how in ended.items() if how is AirflowException}
    assert passes == {"55P03", "40P01", "end", "server down"}
    assert {*ended} - passes == {"42P01", "23505", "no such database", "wrong project"}


OTHERS = {
    "models/intermediate/billing.sql": "select 1 as id",
    "models/intermediate/billing/billing_lines.sql": "select * from {{ ref('billing') }}",
    "models/marts/fct_sales.sql": "select 1 as id",
    "models/marts/models.yml": """
models: [{name: fct_sales, columns: [{name: id, data_tests: [unique, not_null]}]}]
unit_tests: [{name: one, model: fct_sales, given: [], expect: {rows: [{id: 1}]}}]
""",
    "tests/marts/fct_sales.sql": "select 1 from {{ ref('fct_sales') }} where id > 1",
    "functions/twice.sql": "select x * 2",
    "functions/twice.yml": """
functions: [{name: twice, arguments: [{name: x, data_type: int}], returns: {data_type: int}}]
""",
}


@pytest.mark.parametrize(
    ("command", "unique_id"),
    [
        ("run", "model.elt.billing"),
        ("run", "model.elt.billing_lines"),
        ("test", "test.elt.fct_sales"),
        ("build", "function.elt.twice"),
    ],
)
def test_a_node_is_run_alone_whatever_is_called_like_it(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, command: str, unique_id: str
) -> None:
    for name, text in OTHERS.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    dsn = postgres.database()
    with psycopg.connect(dsn) as warehouse:
        warehouse.execute("create schema analytics; create view analytics.billing as select 1 as id")
        warehouse.execute("create table analytics.fct_sales as select 1 as id")
    profile = dbt_project.profile_environment(dsn)
    for name, value in profile.items():
        monkeypatch.setenv(name, value)

    def ran(*selection: str) -> list[str]:
        with TemporaryDirectory() as folder:
            manifest = dbt_project.load_manifest(profile["DBT_DBNAME"])
            done = dbt_runner.invoke([command, *selection], folder, manifest, unique_id)
        assert done.success, done.exception or done.result.results
        return [each.node.unique_id for each in done.result.results]

    assert ran() == [unique_id]
    assert ran("--select", f"place {unique_id.split('.')[2]}") == [unique_id], "of a person's selection, it alone"
    assert ran("--select", "place") == []
    assert ran("--exclude", unique_id.split(".")[2]) == []
