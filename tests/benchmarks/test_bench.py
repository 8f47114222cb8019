"""`make bench` with few rows: that it runs, and that it notices lost rows. Nothing here asserts a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import psycopg
import pytest
from airflow.dag_processing.dagbag import DagBag

from benchmarks import __main__ as bench
from benchmarks import loads, report, tools
from benchmarks.contenders import CONTENDERS, KEYED
from benchmarks.goals import verdicts
from benchmarks.graphs import add_same_shape
from benchmarks.installation import Project, check
from benchmarks.measure import BenchError, Cost, run
from benchmarks.project import write_project
from benchmarks.published import BETWEEN, PLOT, README, RESULTS, markdown, plot
from benchmarks.report import Sample, medians, read_csv, write_csv
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
        warehouse.execute(KEYED[0].format(schema="copied"))
        with warehouse.cursor() as cursor:
            rows = source.execute("select * from orders").fetchall()
            cursor.executemany("insert into copied.orders values (%s, %s, %s, %s, %s, %s)", rows)
    shop.check("copied")
    with psycopg.connect(shop.warehouse) as warehouse:
        warehouse.execute(loss.format("copied.orders"))
    with pytest.raises(BenchError, match="does not count"):
        shop.check("copied")


def test_a_delta_has_as_many_rows_as_asked_for(shop: Shop) -> None:
    for _ in range(2):
        before = _rows(shop, "true")
        since = shop.change(30)
        assert _rows(shop, f"updated_at = '{since}'") == 30
        assert _rows(shop, "true") == before + 15


def _rows(shop: Shop, condition: str) -> int:
    with psycopg.connect(shop.source) as source:
        row = source.execute(f"select count(*) from orders where {condition}").fetchone()
    assert row
    return row[0]


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
    (project.here.state / "postgres.port").write_text("1")  # where nobody listens: a graph is drawn without databases
    write_shell_file(project.here, environment(project.here, {"PATH": os.environ["PATH"]}))
    tasks = add_same_shape(project)
    loads, ends, tests = ["check_parameters", "horizon", *2 * ["extract", "load"]], ["marts_ready"], 2 * (10 + 2) + 3
    assert tasks == len(loads) + 10 + tests + len(ends)
    file = project.tree / "dags/same_shape.py"
    made = DagBag(file, safe_mode=False).dags["same_shape"].tasks
    rendered = json.loads(file.with_suffix(".json").read_text())
    assert {task.task_id: sorted(task.downstream_task_ids) for task in made} == rendered
    assert sum(map(len, rendered.values())) > tasks


def test_every_step_runs_and_is_written_down(tmp_path: Path) -> None:
    results = tmp_path / "results.csv"
    settings = {"ROWS": "2000", "DELTA": "100", "REPEAT": "1", "ONLY": "load delta", "RESULTS": str(results)}
    # No tools there: they are reported, and everything else is measured.
    given = os.environ | settings | {"ELT_STATE": str(tmp_path / "state")}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks"], cwd=ROOT, env=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = read_csv(results)
    assert {line.contender for line in lines} == {contender.name for contender in CONTENDERS if not contender.tool}
    assert {line.task for line in lines} == {"first load", "delta of 100", "replay of 100"}
    for contender in CONTENDERS:
        assert (f"missing: {contender.name} (make bench-tools)" in done.stdout) == bool(contender.tool)


def test_a_tool_counts_as_installed_only_as_it_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELT_STATE", str(tmp_path))
    assert not tools.is_installed("sling")
    ready = tools.program("sling").parent.parent / "ready"
    ready.parent.mkdir(parents=True)
    ready.write_text("sling==0.1")
    assert not tools.is_installed("sling")


def test_slow_contenders_are_said_to_be_left_out() -> None:
    said = list(loads.left_out([500_000, 5_000_000]))
    for contender in CONTENDERS:
        if contender.most_rows and (not contender.tool or tools.is_installed(contender.tool)):
            assert f"slow: {contender.name} is measured at 500,000 rows at most" in said


def _sample(task: str, size: int, contender: str, seconds: float) -> Sample:
    return Sample(task, size, contender, Cost(seconds, 1.0, 64.0))


def test_medians_say_both_ratios_and_stay_until_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    rounds = [("elt_pipeline", 2.0), ("psql, COPY", 3.0), ("elt_pipeline", 4.0), ("psql, COPY", 5.0)]
    write_csv(medians(_sample("first load", 10, *sample) for sample in rounds), path)
    held = write_csv(medians([_sample("delta of 2", 10, "elt_pipeline", 1.0)]), path)
    assert read_csv(path) == held
    assert [(line.task, line.seconds, line.ratio, line.share) for line in held] == [
        ("first load", 3.0, 1.0, 1.0),
        ("first load", 4.0, 1.333, 0.75),
        ("delta of 2", 1.0, 1.0, 1.0),
    ]


def test_goals_are_judged_where_both_sides_were_measured() -> None:
    seconds = {("first load", 5_000_000, "elt_pipeline"): 8.0}
    assert not list(verdicts(seconds))
    seconds[("first load", 5_000_000, "psql, COPY")] = 10.0
    seconds[("first load", 5_000_000, "Sling")] = 16.0
    assert list(verdicts(seconds)) == [
        "met    first load · 5,000,000: 0.80 of first load · 5,000,000 · psql, COPY; at most 0.85",
        "MISSED first load · 5,000,000: 0.50 of first load · 5,000,000 · Sling; at most 0.3",
    ]


def test_what_is_not_committed_is_not_published(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RESULTS", raising=False)
    monkeypatch.setattr(bench, "is_dirty", lambda: True)
    monkeypatch.setattr(bench, "_measure", lambda *_: pytest.fail("it began"))
    assert bench.main() == 1
    assert "commit first, or write elsewhere with RESULTS=" in capsys.readouterr().err


@pytest.mark.parametrize(("changed", "expected"), [("docs/bench.svg", False), ("include/operate/plan.py", True)])
def test_results_of_an_earlier_run_are_no_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, expected: bool
) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / changed).parent.mkdir(parents=True)
    (tmp_path / changed).touch()
    monkeypatch.setattr(report, "ROOT", tmp_path)
    assert report.is_dirty() is expected


def test_readme_and_plot_show_what_the_results_say() -> None:
    lines = read_csv(RESULTS)
    assert BETWEEN.findall(README.read_text()) == [markdown(lines)]
    assert PLOT.read_text() == plot(lines)
    shown = "".join(ElementTree.fromstring(PLOT.read_text()).itertext())
    assert all(line.contender in shown for line in lines if line.task == "first load" and line.size >= 5_000_000)
