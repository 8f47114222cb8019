"""One project with each feature of dbt, and what the graph makes of it: the same as `dbt build`, in every byte.

`make run` has `airflow dags test` build it, then Airflow's own scheduler does, with a process for each task.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from include.connecting import profile_variables, written_parameters
from include.local.environment import ROOT
from tests.conftest import Checkout
from tests.e2e.conftest import BY_HAND, PATIENCE_SECONDS, served
from tests.webhook import webhook

FEATURES = Path(__file__).parent / "features"
OTHER = "elsewhere"

SCHEMAS = """
    select nspname from pg_namespace where nspowner = 'dbt_transformer'::regrole order by nspname
"""
RELATIONS = """
    select
        nspname, relname, relkind, obj_description(pg_class.oid),
        array_agg(format('%s %s', attname, format_type(atttypid, atttypmod)) order by attnum)
    from pg_class
    join pg_namespace on pg_namespace.oid = relnamespace and nspowner = 'dbt_transformer'::regrole
    join pg_attribute on attrelid = pg_class.oid and attnum > 0 and not attisdropped
    where relkind in ('r', 'v', 'm')
    group by pg_class.oid, nspname, relname, relkind
    order by nspname, relname
"""


@pytest.fixture(scope="module")
def features(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with this project in place of the sample, and in the warehouse a table that somebody else fills."""
    root = tmp_path_factory.mktemp("features") / "checkout"
    for part in ("include", "plugins"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(FEATURES, root, dirs_exist_ok=True)
    shutil.copy(ROOT / "dbt/profiles.yml", root / "dbt")
    (root / "dags").mkdir()
    shutil.copy(ROOT / "dags/elt_pipeline.py", root / "dags")
    (root / ".venv").symlink_to(ROOT / ".venv")
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-m", "include.dbt.packages"], cwd=root, env=environment, check=True)
    made = Checkout(checkout.here, root)
    made.run("shop")
    with psycopg.connect(made.here.server().superuser_dsn("warehouse")) as somebody:
        somebody.execute("create schema legacy")
        somebody.execute(
            """
            create table legacy.payments as
            select number as amount, 'cash' as kind, now() - interval '2 hours' as at
            from generate_series(1, 9) as number
        """
        )
        somebody.execute("grant usage on schema legacy to dbt_transformer")
        somebody.execute("grant select on legacy.payments to dbt_transformer")
    return made


@pytest.fixture(scope="module")
def ran(features: Checkout) -> str:
    """What `make run` says of it."""
    done = features.run("run")
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def by_dbt(features: Checkout, ran: str) -> Iterator[dict[str, Any]]:
    """What `dbt build` makes of the same tables, in another database."""
    server = features.here.server()
    with psycopg.connect(server.superuser_dsn("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("create database {} template warehouse").format(sql.Identifier(OTHER)))
    clear(server.superuser_dsn(OTHER))
    dsn = server.dsn("dbt_transformer", features.here.secrets()["dbt_transformer"], OTHER)
    environment = {**os.environ, **profile_variables(written_parameters(dsn)), "DBT_TARGET_PATH": "target"}
    command = "build --exclude-resource-type unit_test --profiles-dir . --profile elt --target warehouse"
    done = subprocess.run(
        [ROOT / ".venv/bin/dbt", *command.split()],
        cwd=features.root / "dbt",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    yield made(server.superuser_dsn(OTHER))


def clear(dsn: str) -> None:
    """Leave dbt's schemas empty."""
    with psycopg.connect(dsn) as admin:
        for (name,) in admin.execute(SCHEMAS).fetchall():
            schema = sql.Identifier(name)
            admin.execute(sql.SQL("drop schema {} cascade").format(schema))
            admin.execute(sql.SQL("create schema {} authorization dbt_transformer").format(schema))


def made(dsn: str) -> dict[str, Any]:
    """Every relation of dbt's in a database: what it is, and its rows; of the log, without the ids of runs."""
    found: dict[str, Any] = {}
    with psycopg.connect(dsn) as admin:
        for schema, name, *rest in admin.execute(RELATIONS).fetchall():
            columns = sql.SQL("what, replace(how, {}, 'warehouse')").format(OTHER) if name == "log" else sql.SQL("*")
            query = sql.SQL("select r::text from (select {} from {}) as r order by 1")
            rows = admin.execute(query.format(columns, sql.Identifier(schema, name))).fetchall()
            found[f"{schema}.{name}"] = [*rest, [row for (row,) in rows]]
    return found


def told(dsn: str) -> tuple[Counter[str], dict[str, str], int]:
    """What the hooks wrote: how often each was run, what came of each node, and under how many ids."""
    with psycopg.connect(dsn) as admin:
        rows = admin.execute("select run, what, how from analytics.log").fetchall()
    results = {what: how for _, what, how in rows if what.count(".") > 1}
    return Counter(what for _, what, _ in rows), results, len({run for run, _, _ in rows})


def test_the_graph_makes_what_dbt_build_makes(features: Checkout, by_dbt: dict[str, Any]) -> None:
    warehouse = made(features.here.server().superuser_dsn("warehouse"))
    assert warehouse.keys() == by_dbt.keys()
    for name, relation in by_dbt.items():
        assert warehouse[name] == relation, name
    assert len(warehouse["analytics_marts.visits_by_day"][-1]) == 3
    assert warehouse["analytics_snapshots.customers_over_time"][-1]


def test_every_node_is_run_once_and_the_hooks_of_a_run_once(features: Checkout, by_dbt: dict[str, Any]) -> None:
    server = features.here.server()
    times, results, ids = told(server.superuser_dsn("warehouse"))
    assert (times, results, ids) == told(server.superuser_dsn(OTHER))
    assert ids == 1, "of invocations, as all tasks are one run"
    once = ("on-run-start", "on-run-end", "on-run-end of package", "model.features.visits_by_day", "regions")
    assert {times[name] for name in once} == {1} and times["visits_by_day"] == 2, "which has two hooks"
    (failed,) = (key for key, how in results.items() if how.startswith("fail"))
    assert failed.startswith("test.features.unique_wrong_id") and results["model.features.after_wrong"] == "skipped 0"


def test_a_warning_is_seen_and_a_failure_is_one(ran: str) -> None:
    assert (
        "dbt models  15 of 16 passed, 1 not run\n" in ran and "dbt tests   14 of 18 passed, 1 failed, 3 warned\n" in ran
    )
    assert "\n! legacy.payments.freshness\n  source legacy.payments is stale: its newest row is of 20" in ran
    warning = r"dbt test like_stg_customers_email__a_ warns of \d+ rows\. They are in the task's tab Failing rows"
    assert re.search(warning, ran) and ran.count("\n! ") == 4


def test_the_scheduler_makes_the_same(features: Checkout, by_dbt: dict[str, Any]) -> None:
    """With LocalExecutor, as `make ui` has it."""
    dsn = features.here.server().superuser_dsn("warehouse")
    clear(dsn)
    with webhook() as hook, served(features, AIRFLOW_CONN_ALERTS=hook.url, **BY_HAND) as airflow:
        run_id = airflow.trigger("elt_pipeline")
        for tasks in airflow.follow("elt_pipeline", run_id):
            pass
        found, ids = made(dsn), told(dsn)[2]
        warned = airflow.warnings("elt_pipeline", run_id)
        airflow.trigger("elt_pipeline", {"dbt_select": "like_stg_customers_email__a_"})
        messages = iter(lambda: hook.texts.get(timeout=PATIENCE_SECONDS), "")
        of_failure = next(messages)
        of_success = next(each for each in messages if " failed: " not in each)
    states = Counter(task["state"] for task in tasks)
    assert states.keys() == {"success", "failed", "upstream_failed"} and states["failed"] == 1
    assert found == by_dbt and ids == 1
    assert len(warned) == 4 and any("tab Failing rows" in said for said in warned.values())
    assert of_failure.startswith("elt_pipeline failed: 1 of ") and "\n4 tasks warn\n• " in of_failure
    assert of_success.startswith("elt_pipeline succeeded\n"), of_success
