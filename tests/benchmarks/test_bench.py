"""`make bench` with few rows: that it runs, and that it notices lost rows. Nothing here asserts a time."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from airflow.dag_processing.dagbag import DagBag

from benchmarks.contenders import CONTENDERS
from benchmarks.graphs import add_same_shape
from benchmarks.installation import Project, check
from benchmarks.measure import BenchError, run
from benchmarks.project import write_project
from benchmarks.shop import Shop, open_shop
from include.local.environment import ROOT, environment, write_shell_file


@pytest.fixture(scope="module")
def shop(folder: Path) -> Iterator[Shop]:
    with open_shop(folder / "bench") as made:
        made.fill(100)
        yield made


@pytest.mark.parametrize("loss", ["delete from {} where id = 7", "update {} set amount = amount + 0.01 where id = 7"])
def test_a_load_that_lost_a_row_or_a_cent_does_not_count(shop: Shop, loss: str) -> None:
    shop.empty("copied")
    with psycopg.connect(shop.source) as source, psycopg.connect(shop.warehouse) as warehouse:
        warehouse.execute(CONTENDERS[1].table[0].format(schema="copied"))  # type: ignore[arg-type]
        with warehouse.cursor() as cursor:
            rows = source.execute("select * from orders").fetchall()
            cursor.executemany("insert into copied.orders values (%s, %s, %s, %s, %s, %s)", rows)
    shop.check("copied")
    with psycopg.connect(shop.warehouse) as warehouse:
        warehouse.execute(loss.format("copied.orders"))  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="does not count"):
        shop.check("copied")


def test_a_contender_that_fails_ends_the_run() -> None:
    with pytest.raises(BenchError, match="ended with 3: no"):
        run(["sh", "-c", "echo no; exit 3"], {})


@pytest.mark.parametrize("states", [["success"], ["success", "failed"], ["success", "success", "success"]])
def test_a_run_with_other_tasks_or_a_failed_one_does_not_count(states: list[str]) -> None:
    with pytest.raises(BenchError, match="has 2 tasks"):
        check("elt_pipeline", states, tasks=2)


def test_the_empty_tasks_have_the_shape_of_the_generated_project(tmp_path: Path) -> None:
    project = Project(tmp_path / "tree", models=10)
    write_project(project.tree, project.models)
    project.here.state.mkdir()
    servers = dict.fromkeys(("AIRFLOW_CONN_SHOP", "AIRFLOW_CONN_WAREHOUSE"), "postgresql://nobody@127.0.0.1:1/none")
    write_shell_file(project.here, environment(project.here, {"PATH": os.environ["PATH"], **servers}))
    tasks = add_same_shape(project)
    loads, ends, tests = ["horizon", *2 * ["extract", "load"]], ["marts_ready"], 2 * (10 + 2) + 3
    assert tasks == len(loads) + 10 + tests + len(ends)
    file = project.tree / "dags/same_shape.py"
    made = DagBag(file, safe_mode=False).dags["same_shape"].tasks
    rendered = json.loads(file.with_suffix(".json").read_text())
    assert {task.task_id: sorted(task.downstream_task_ids) for task in made} == rendered
    assert sum(map(len, rendered.values())) > tasks


def test_every_step_runs_and_is_written_down(tmp_path: Path) -> None:
    results = tmp_path / "results.csv"
    given = os.environ | {"ROWS": "2000", "REPEAT": "1", "ONLY": "load delta", "RESULTS": str(results)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks"], cwd=ROOT, env=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = list(csv.DictReader(results.read_text().splitlines()))
    names = {contender.name for contender in CONTENDERS}
    assert {line["contender"] for line in lines if line["task"] == "first load"} == names
    assert {line["task"] for line in lines} == {"first load", "delta 1 %", "replay"}
