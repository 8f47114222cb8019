"""The whole graph against Airflow's own floor and against `dbt build`; and what parsing it takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.installation import Project
from benchmarks.report import Sample

FLOOR, OURS = "same_shape", "elt_pipeline"

DBT_BUILD = ("dbt", "build", "--quiet", "--project-dir", "dbt", "--profiles-dir", "dbt", "--target-path", "target")
PARSE = ("python", "-m", "benchmarks.parse")


def runs(project: Project, repeat: int) -> Iterator[Sample]:
    """Each way to run the same graph, in each round; before them two runs that are not measured fill the caches."""
    tasks = add_same_shape(project)
    names = {FLOOR: f"{tasks} empty tasks", OURS: f"elt_pipeline, {tasks} tasks"}
    project.dags_test(OURS, tasks)
    project.command(*DBT_BUILD)
    for _ in range(repeat):
        with project.services() as services:
            for dag_id in (FLOOR, OURS):
                yield Sample("scheduler", project.models, names[dag_id], services.run(dag_id, tasks))
        yield Sample("one process", project.models, "dbt build", project.command(*DBT_BUILD))
        for dag_id in (OURS, FLOOR):
            yield Sample("one process", project.models, names[dag_id], project.dags_test(dag_id, tasks))


def parses(project: Project, repeat: int) -> Iterator[Sample]:
    """Read the DAG file in a fresh process; without a manifest, dbt has to parse the project first."""
    contenders = {"whole graph": "dag", "start of one task": "task", "imports alone": "imports"}
    for _ in range(repeat):
        shutil.rmtree(project.here.state / "dbt", ignore_errors=True)
        cold = project.command(*PARSE, "dag")
        for name, mode in contenders.items():
            yield Sample("DAG file", project.models, name, project.command(*PARSE, mode))
        yield Sample("DAG file", project.models, "whole graph, no manifest", cold)


def add_same_shape(project: Project) -> int:
    """Add the DAG of empty tasks; returns how many tasks each of the two DAGs has."""
    dags = project.tree / "dags"
    shape = dags / "same_shape.json"
    project.command(*PARSE, "shape", str(shape))
    shutil.copy(Path(__file__).with_name("same_shape.py"), dags)
    return len(json.loads(shape.read_text()))
