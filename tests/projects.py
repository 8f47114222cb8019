"""dbt projects that tests write, parsed by dbt itself as the product does it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from airflow.sdk import DAG

from include.dbt import project as dbt_project
from include.dbt import runner as dbt_runner
from include.local.environment import ROOT
from include.orchestrate.rendering import render_pipeline

PROJECT = "{name: elt, profile: elt, flags: {send_anonymous_usage_stats: false}}"


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write a project's files; its profile is the product's own, its `dbt_project.yml` the least."""
    shutil.copy(ROOT / "dbt" / "profiles.yml", folder)
    for name, text in {"dbt_project.yml": PROJECT, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@contextmanager
def project(folder: Path, files: Mapping[str, str]) -> Iterator[Path]:
    """The project of the product is the one of `files`, below `folder`, for as long as this is open."""
    folder = folder / "dbt"
    folder.mkdir(exist_ok=True)
    write(folder, files)
    with pytest.MonkeyPatch.context() as patch:
        for module in (dbt_project, dbt_runner):
            patch.setattr(module, "PROJECT_DIR", folder)
        patch.setenv("DBT_TARGET_PATH", str(folder / "target"))
        if dbt_project.listed_packages():  # which are among the files
            dbt_project.packages_stamp().write_text(dbt_project.listed_packages(), encoding="utf-8")
        yield folder


def rendered() -> DAG:
    """The DAG of the project."""
    with DAG("rendered", start_date=datetime(2024, 1, 1)) as dag:
        render_pipeline(dag)
    return dag


def selected(only: str | Set[str]) -> list[str]:
    """What dbt selects for the task of a node, or for those of several in one invocation."""
    command = ["list", "--output", "json", "--output-keys", "unique_id"]
    with TemporaryDirectory() as folder:
        done = dbt_runner.invoke(command, folder, dbt_project.load_manifest({}), only, options=dbt_runner.SILENT)
    assert done.success, done.exception
    return [json.loads(line)["unique_id"] for line in done.result]
