"""dbt invoked again and again in one process: as if each time were the first, for less."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import psycopg2
import pytest
from airflow.sdk.exceptions import AirflowException
from dbt.cli.main import dbtRunnerResult
from dbt.compilation import Linker
from dbt.config import RuntimeConfig
from dbt_common.events import base_types
from dbt_common.events.base_types import BaseEvent, EventLevel
from dbt_common.events.event_manager import EventManager
from google.protobuf.json_format import ParseDict
from psycopg import sql

from include.connecting import profile_variables, written_parameters
from include.dbt import packages as dbt_packages
from include.dbt import project as dbt_project
from include.dbt import runner as dbt_runner
from include.dbt.project import ROOT
from include.errors import ConfigError
from include.orchestrate import dbt_tasks
from include.patches import dbt as dbt_patches
from include.patches import dbt_hooks
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


def build(dsn: str, monkeypatch: pytest.MonkeyPatch, name: str = "place", **variables: Any) -> None:
    done = attempt(dsn, monkeypatch, name, **variables)
    assert done.success, done.exception or done.result.results
    assert [each.node.name for each in done.result.results if each.node.resource_type == "model"] == [name]


def attempt(dsn: str, monkeypatch: pytest.MonkeyPatch, name: str = "place", **variables: Any) -> dbtRunnerResult:
    parameters = written_parameters(dsn)
    profile = profile_variables(parameters)
    for key, value in profile.items():
        monkeypatch.setenv(key, value)
    period = variables.pop("period", None)
    command = ["run", "--select", name, "--vars", json.dumps(variables)]
    with TemporaryDirectory() as folder:
        manifest = dbt_project.load_manifest(profile, variables)
        return dbt_runner.invoke(command, folder, manifest, only=f"model.elt.{name}", reached=parameters, period=period)


def relations(dsn: str) -> list[str]:
    """What the warehouse holds of dbt, by schema and name."""
    query = "select schemaname || '.' || tablename from pg_tables where schemaname ~ '^analytics'"
    with psycopg.connect(dsn) as warehouse:
        return sorted(name for (name,) in warehouse.execute(query))


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


def test_another_invocation_reads_no_package_compiles_no_text_and_connects_for_its_node_alone(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = postgres.database()
    dbt_patches.compiled.clear()
    for _ in range(2):  # what replaces a table is another text than what makes it
        build(dsn, monkeypatch)
    compiled = set(dbt_patches.compiled)
    assert any("DBT_HOST" in text for _, text in compiled), "dbt has its profile compiled elsewhere: see compile_once"
    connected: list[Any] = []
    connect = psycopg2.connect
    monkeypatch.setattr(psycopg2, "connect", lambda *args, **kwargs: connected.append(0) or connect(*args, **kwargs))
    monkeypatch.setattr(RuntimeConfig, "new_project", None)
    build(dsn, monkeypatch)
    assert set(dbt_patches.compiled) == compiled
    assert len(connected) == 1, "for the node, not for hooks (run_hooks_of_the_end) and schemas (create_schemas_once)"


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


def test_what_one_invocation_compiles_is_not_in_the_next(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "models/inner.sql").write_text("{{ config(materialized='ephemeral') }} select 1 as id")
    (project / "models/eph.sql").write_text("{{ config(materialized='ephemeral') }} select * from {{ ref('inner') }}")
    (project / "models/reader.sql").write_text("select * from {{ ref('eph') }}")
    marks = "{% set seen = graph.get('seen', 0) %}{% do graph.update({'seen': seen + 1}) %}select {{ seen }} as seen"
    (project / "models/marks.sql").write_text(marks)
    dsn = postgres.database()
    for _ in range(2):
        build(dsn, monkeypatch, "reader")
        build(dsn, monkeypatch, "marks")
    with psycopg.connect(dsn) as warehouse:
        assert warehouse.execute("select id, seen from analytics.reader, analytics.marks").fetchall() == [(1, 0)]


def test_a_node_costs_little_to_make_its_own(project: Path) -> None:
    """Measured: 0.8 ms; reading the manifest again would be 40, and copying it whole 60."""
    manifest = dbt_project.load_manifest({})
    first, second = (dbt_runner._fresh(manifest, "model.elt.place") for _ in range(2))
    assert first.macros is manifest.macros, "what dbt only reads is shared"
    assert len({id(each.nodes["model.elt.place"]) for each in (manifest, first, second)}) == 3


def test_another_value_of_a_variable_that_configures_a_model_counts_at_once(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "models/report.sql").write_text(
        "{{ config(schema=env_var('REPORT_SCHEMA', 'default')) }} select 1 as id"
    )
    dsn = postgres.database()
    build(dsn, monkeypatch, "report")
    monkeypatch.setenv("REPORT_SCHEMA", "reports")
    build(dsn, monkeypatch, "report")
    assert relations(dsn) == ["analytics_default.report", "analytics_reports.report"]


def test_variables_of_a_run_count_where_the_project_is_parsed(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "models/extra.sql").write_text(
        "{{ config(enabled=var('extra', false)) }} select {{ var('extra') }} as id"
    )
    dsn = postgres.database()
    assert "model.elt.extra" not in dbt_project.load_manifest({}).nodes
    build(dsn, monkeypatch, "extra", extra=True)
    build(dsn, monkeypatch)
    assert relations(dsn) == ["analytics.extra", "analytics.place"]


def test_the_warehouse_has_its_own_name_in_what_was_parsed(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = "insert into {{ this }} values ('" + "{{ target.dbname }}', '{{ target.user }}" + "')"
    model = (
        '{{ config(post_hook="insert into " ~ this ~ " values (\'" ~ target.dbname ~ "\', \'" ~ target.user ~ "\')") }}'
    )
    (project / "models/place.sql").write_text(
        f"{model} select current_database()::text as name, current_user::text as role"
    )
    (project / "dbt_project.yml").write_text(
        PROJECT.replace("+materialized: table", f'+materialized: table, +post-hook: "{hook}"')
    )
    for _ in range(2):
        dsn = postgres.database()
        build(dsn, monkeypatch)
        with psycopg.connect(dsn) as warehouse:
            query = "select count(*), count(distinct (name, role)), min(name) = current_database() from analytics.place"
            assert warehouse.execute(query).fetchone() == (3, 1, True)


def test_dates_in_the_project_stay_dates(project: Path) -> None:
    config = "materialized='incremental', incremental_strategy='microbatch', event_time='at', batch_size='day'"
    (project / "models/days.sql").write_text(f"{{{{ config({config}) }}}} select now() as at")
    (project / "models/days.yml").write_text("models: [{name: days, config: {begin: 2024-01-01}}]")
    days = dbt_project.load_manifest({}).nodes["model.elt.days"].config
    assert (days.begin.year, days.begin.month) == (2024, 1), "an ExtType, where dbt's own decoder is not used"


def test_batches_are_those_of_the_period(project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    config = "materialized='incremental', incremental_strategy='microbatch', event_time='at', batch_size='day'"
    config += ", begin='2024-01-08', lookback=1, unique_key='at'"
    batch = "'{{ model.batch.event_time_start }}'::timestamptz as at, {{ var('run') }} as run"
    (project / "models/days.sql").write_text(f"{{{{ config({config}) }}}} select {batch}")
    dsn = postgres.database()

    def built(run: int, first: int, last: int, is_all: bool = False) -> list[int]:
        """The days that a run about a period of January 2024 built."""
        start, end = (datetime(2024, 1, day, tzinfo=UTC) for day in (first, last))
        build(dsn, monkeypatch, "days", run=run, period=dbt_patches.Period(start, end, is_all))
        with psycopg.connect(dsn) as warehouse:
            query = "select extract(day from at at time zone 'utc')::int from analytics.days where run = %s order by 1"
            return [day for (day,) in warehouse.execute(query, (run,))]

    assert built(1, 10, 11) == [8, 9, 10], "the first run begins where the model says"
    assert built(2, 12, 13) == [11, 12], "with its lookback, and nothing of today"
    assert built(3, 14, 18) == [13, 14, 15, 16, 17], "a long interval has no gaps"
    assert built(4, 9, 11, is_all=True) == [9, 10], "a backfill is of its own days"


def test_a_selection_or_variables_that_come_to_nothing_say_what_there_is(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "models/extra.sql").write_text("{{ config(enabled=var('extra', false)) }} select 1 as id")
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", postgres.database())
    monkeypatch.delenv("AIRFLOW_CONN_WAREHOUSE_DBT", raising=False)
    (project / "models/through.sql").write_text("{{ config(materialized='ephemeral') }} select 1 as id")
    built = {key for key in dbt_project.load_manifest({}).nodes if key != "model.elt.through"}
    for good in ({"dbt_select": "place +place"}, {"dbt_select": "path:models"}, {"dbt_vars": {"extra": False}}):
        dbt_tasks.check_selection(good, built)
    for bad, said in (
        ({"dbt_select": "place plase"}, "parameter dbt_select: 'plase' selects nothing; did you mean place\\?"),
        ({"dbt_select": "tag:none"}, "parameter dbt_select: 'tag:none' selects nothing; there are place, through"),
        ({"dbt_select": "place through"}, "this DAG builds nothing of 'through': model.elt.through is another DAG's"),
        ({"dbt_select": "no:such"}, "dbt cannot select 'no:such'"),
        ({"dbt_vars": {"extra": True}}, "parameter dbt_vars enables model.elt.extra, which has no task"),
    ):
        with pytest.raises(ConfigError, match=said):
            dbt_tasks.check_selection(bad, built)


def test_packages_are_installed_followed_and_gone_when_they_are_removed(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of a folder beside the project and of a git repository; no hub can be reached here."""
    local, remote = (tmp_path_factory.mktemp(name) for name in ("local", "remote"))
    for folder in (local, remote):
        name = folder.name.rstrip("0123456789")
        (folder / "models").mkdir()
        (folder / "dbt_project.yml").write_text(f"name: {name}\n")
        (folder / "models" / f"of_{name}.sql").write_text("select 1 as id")
    (local / "dbt_project.yml").write_text("{name: local, on-run-start: create table if not exists hooked ()}")
    git = ("git", "-C", str(remote), "-c", "user.name=nobody", "-c", "user.email=nobody@localhost")
    for command in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--message", "first")):
        subprocess.run([*git, *command], check=True)
    revision = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    lists = {"packages": [{"local": str(local)}, {"git": remote.as_uri(), "revision": revision}]}
    (project / "packages.yml").write_text(json.dumps(lists))
    dbt_packages.install()
    dsn = postgres.database()
    manifest = dbt_project.load_manifest({})
    assert {"model.local.of_local", "model.remote.of_remote"} <= manifest.nodes.keys()
    assert any(each.package_name == "local" for each in manifest.nodes.values() if each.resource_type == "operation")

    monkeypatch.setattr(dbt_packages, "run_dbt", None)
    dbt_packages.install()
    (local / "models/of_local.sql").write_text("select 2 as id")
    assert dbt_project.load_manifest({}).nodes["model.local.of_local"].raw_code == "select 2 as id"

    (project / "packages.yml").unlink()
    (project / "package-lock.yml").unlink()
    dbt_packages.install()
    assert [each for each in dbt_project.load_manifest({}).nodes if ".elt." not in each] == []
    build(dsn, monkeypatch)
    with psycopg.connect(dsn) as warehouse:
        assert warehouse.execute("select to_regclass('hooked')").fetchone() == (None,)


def test_the_target_is_called_as_the_profile_says(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "models/place.sql").write_text("select '{{ target.name }}' as name")
    profiles = project / "profiles.yml"
    profiles.write_text(profiles.read_text().replace("  target: warehouse\n", "  target: prod\n"))
    with pytest.raises(ConfigError, match="The profile 'elt' does not have a target named 'prod'"):
        dbt_project.load_manifest({})
    profiles.write_text(profiles.read_text().replace("    warehouse:\n", "    prod:\n"))
    dsn = postgres.database()
    build(dsn, monkeypatch)
    with psycopg.connect(dsn) as warehouse:
        assert warehouse.execute("select name from analytics.place").fetchone() == ("prod",)
    profiles.unlink()
    with pytest.raises(ConfigError, match="Could not find profile named 'elt'"):
        dbt_project.load_manifest({})


def test_options_of_another_project_in_the_shell_change_nothing(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = {"TARGET": "prod", "PROFILE": "prod", "PROFILES_DIR": "/nowhere", "PROJECT_DIR": "/nowhere"}
    more = {
        "STATE": "/nowhere",
        "DEFER": "1",
        "EMPTY": "1",
        "SAMPLE": "1 day",
        "WARN_ERROR": "1",
        "EXCLUDE_RESOURCE_TYPES": "model",
    }
    for name, value in {**elsewhere, **more}.items():
        monkeypatch.setenv(f"DBT_{name}", value)
        monkeypatch.setenv(f"DBT_ENGINE_{name}", value)
    monkeypatch.chdir(project)
    (project / ".env").write_text("DBT_DBNAME=nowhere\nLOADED=yes\n")
    dsn = postgres.database()
    build(dsn, monkeypatch)
    assert relations(dsn) == ["analytics.place"]
    assert "LOADED" not in os.environ, "a `.env` is Compose's, with the secrets of its services"


def test_a_variable_that_is_not_set_where_the_image_is_built_is_one_sentence(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "models/place.sql").write_text("{{ config(schema=env_var('REPORT_SCHEMA')) }} select 1 as id")
    dbt_project.prepare()
    said = capsys.readouterr().out
    assert "dbt cannot parse the project: Parsing Error Env var required but not provided: 'REPORT_SCHEMA'" in said
    assert "each container parses the project itself" in said and said.count("\n") == 1
    (project / "models/place.sql").write_text("{{ config(schema=nothing.at.all) }} select 1 as id")
    with pytest.raises(ConfigError, match="Undefined is not valid under any of the given schemas"):
        dbt_project.prepare()


def test_the_image_parses_with_all_that_parsing_imports() -> None:
    """Of this package it copies some modules before it parses, so that a change of another is no reason to."""
    script = "import sys, include.dbt.packages, include.dbt.project, include.dbt.runner\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    ours = [name.replace(".", "/") for name in loaded.split() if name.startswith("include.")]
    needed = {f"{name}/__init__.py" if (ROOT / name).is_dir() else f"{name}.py" for name in ours}
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY include/")]
    paths = [ROOT / each for line in lines for each in line.split()[1:-1]]
    files = [each for path in paths for each in (path.glob("*.py") if path.is_dir() else [path])]
    copied = {str(path.relative_to(ROOT)) for path in files}
    assert needed and needed <= copied


def test_hooks_run_once_a_run_at_its_ends_with_one_id_and_all_results(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = "insert into log values ('{{ invocation_id }}', '%s', '%s')"
    start = ["create table if not exists log (id text, what text, how text)", log % ("start", "")]
    each = log % ("{{ result.node.name }}", "{{ result.status }}")
    ends = ["{% for result in results %}" + each + ";{% endfor %}", log % ("{{ schemas | join }}", "end")]
    hooks = json.dumps({"on-run-start": start, "on-run-end": ends})[1:-1]
    (project / "dbt_project.yml").write_text(PROJECT.replace("{", "{" + hooks + ", ", 1))
    (project / "models/later.sql").write_text("select * from {{ ref('place') }}")
    exposure = {"name": "report", "type": "dashboard", "owner": {"name": "Ann"}, "depends_on": ["ref('later')"]}
    (project / "models/report.yml").write_text(json.dumps({"exposures": [exposure]}))
    parameters = written_parameters(postgres.database())
    profile = profile_variables(parameters)
    for key, value in profile.items():
        monkeypatch.setenv(key, value)
    manifest = dbt_project.load_manifest(profile)

    def invoke(command: str, only: str | None = None, **of_run: Any) -> dbtRunnerResult:
        run = dbt_patches.Run("8a5d0a9e-0000-4000-8000-000000000000", **of_run)
        with TemporaryDirectory() as folder:
            done = dbt_runner.invoke([command], folder, manifest, only, parameters, run=run)
        assert not done.exception, done.exception
        return done

    invoke("build", end="on-run-start")
    built = invoke("run", "model.elt.place").result.results
    assert [result.node.name for result in built] == ["place"], "no hook in the task of a node"
    kept = {result.node.unique_id: json.loads(json.dumps(dbt_hooks.outcome(result))) for result in built}
    done = invoke("build", end="on-run-end", results=kept)
    assert {r.status for r in done.result.results if r.node.resource_type == "operation"} == {"success"}
    with psycopg.connect(**parameters) as warehouse:  # type: ignore[arg-type]
        seen = warehouse.execute("select what, how from log order by 1").fetchall()
        ids = warehouse.execute("select distinct id from log").fetchall()
        assert warehouse.execute("select to_regclass('analytics.later')").fetchone() == (None,), "of another task"
    assert seen == [
        ("analytics", "end"),
        ("later", "skipped"),
        ("place", "success"),
        ("report", "no-op"),
        ("start", ""),
    ]
    assert ids == [("8a5d0a9e-0000-4000-8000-000000000000",)]


def test_events_that_nobody_sees_are_not_written(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fired: list[EventLevel] = []
    fire_event = dbt_patches._fire_event
    made: list[Any] = []
    monkeypatch.setattr(base_types, "ParseDict", lambda *given: made.append(given[1]) or ParseDict(*given))

    def watched(manager: EventManager, event: BaseEvent, level: EventLevel | None, *rest: Any, **more: Any) -> None:
        fired.append(level or event.level_tag())
        fire_event(manager, event, level, *rest, **more)

    monkeypatch.setattr(dbt_patches, "_fire_event", watched)
    dsn = postgres.database()
    build(dsn, monkeypatch)
    assert set(fired) == {EventLevel.INFO}
    assert not [each for each in made if type(each).__name__ in ("CacheAction", "SQLQuery")], "nor made"
    assert "1 of 1 OK created sql table model analytics.place" in capsys.readouterr().out
    monkeypatch.setenv("DBT_DEBUG", "1")
    build(dsn, monkeypatch)
    assert EventLevel.DEBUG in fired
    assert 'drop table if exists "' in capsys.readouterr().out


def test_a_hook_that_makes_a_schema_says_that_dbts_role_may_not(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = ["set role pg_monitor", "create schema if not exists public"]
    (project / "models/place.sql").write_text(f"{{{{ config(pre_hook={hooks}) }}}} select 1 as id")
    with pytest.raises(AirflowException, match="take the statement out of the hook, have the warehouse's admin"):
        dbt_tasks.DbtRun.conclude(object(), attempt(postgres.database(), monkeypatch))  # type: ignore[arg-type]


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
    profile = profile_variables(written_parameters(dsn))
    for name, value in profile.items():
        monkeypatch.setenv(name, value)

    def ran(*selection: str) -> list[str]:
        with TemporaryDirectory() as folder:
            manifest = dbt_project.load_manifest(profile)
            done = dbt_runner.invoke([command, *selection], folder, manifest, unique_id)
        assert done.success, done.exception or done.result.results
        return [each.node.unique_id for each in done.result.results]

    assert ran() == [unique_id]
    assert ran("--select", f"place {unique_id.split('.')[2]}") == [unique_id], "of a person's selection, it alone"
    assert ran("--select", "place") == []
    assert ran("--exclude", unique_id.split(".")[2]) == []
    assert ran("--exclude", "billing+") == ([] if "billing" in unique_id else [unique_id])
    monkeypatch.setattr(Linker, "link_node", None)
    assert ran() == [unique_id], "no other node is linked where nobody selects"
