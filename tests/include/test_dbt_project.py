"""The project is parsed when it changed and at no other time; `graph.json` holds what rendering reads of the result."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cosmos import ExecutionConfig, ProjectConfig
from cosmos.constants import DbtResourceType
from cosmos.dbt.graph import DbtGraph, DbtNode

from include import dbt_project
from include.rendering import OPERATORS

MANIFEST: dict[str, Any] = {
    "metadata": {"project_name": "elt", "generated_at": "now"},
    "nodes": {
        "model.elt.a": {"resource_type": "model", "name": "a", "raw_code": "select 1"},
        "test.elt.b": {"resource_type": "test", "name": "b", "raw_code": "select 2"},
    },
    "sources": {},
    "parent_map": {"test.elt.b": ["model.elt.a"]},
    "child_map": {},
    "macros": {"macro.elt.c": {}},
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dbt/models/target").mkdir(parents=True)
    (tmp_path / "dbt/models/a.sql").write_text("select 1")
    (tmp_path / "dbt/models/target/b.yml").write_text("models: []")
    monkeypatch.setattr(dbt_project, "PROJECT_DIR", tmp_path / "dbt")
    monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path / "dbt/target"))
    return tmp_path / "dbt"


@pytest.fixture
def parses(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stands in for `dbt parse`: notes each call, and writes a manifest."""
    calls: list[Path] = []

    def parse(target: Path) -> None:
        calls.append(target)
        (target / "manifest.json").write_text(json.dumps(MANIFEST))

    monkeypatch.setattr(dbt_project, "_parse", parse)
    return calls


def test_parsed_again_when_a_file_changed_and_not_otherwise(project: Path, parses: list[Path]) -> None:
    dbt_project.graph_path()
    os.utime(project / "models/a.sql", (1, 1))
    (project / "target/graph/of-a-person.sql").write_text("compiled")
    dbt_project.graph_path()
    assert len(parses) == 1, "times and dbt's own output are no reason to parse"
    changes = (
        lambda: (project / "models/a.sql").write_text("select 2"),  # as long as before
        lambda: (project / "models/target/b.yml").write_text("models: [{name: a}]"),
        lambda: (project / "models/a.sql").rename(project / "models/c.sql"),
        lambda: (project / "models/c.sql").unlink(),
    )
    for number, change in enumerate(changes, 2):
        change()
        dbt_project.graph_path()
        assert len(parses) == number


def test_parsed_again_by_another_dbt(parses: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dbt_project.graph_path()
    monkeypatch.setattr(dbt_project, "version", lambda package: f"{package} of tomorrow")
    dbt_project.graph_path()
    assert len(parses) == 2


def test_a_parse_that_failed_is_made_again(project: Path, parses: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dbt_project.graph_path()
    (project / "models/a.sql").write_text("select 2")
    monkeypatch.setattr(dbt_project, "_write_graph", lambda target: 1 / 0)
    for number in (2, 3):
        with pytest.raises(ZeroDivisionError):
            dbt_project.graph_path()
        assert len(parses) == number


def test_the_graph_is_what_rendering_reads_and_the_same_each_time(project: Path, parses: list[Path]) -> None:
    written = dbt_project.graph_path().read_text()
    assert json.loads(written) == {
        "metadata": {"project_name": "elt"},
        "nodes": {"model.elt.a": {"resource_type": "model", "name": "a"}},
        "sources": {},
        "tests": {"test.elt.b": {"name": "b"}},
        "parent_map": MANIFEST["parent_map"],
        "child_map": {},
    }
    (project / "target/graph/fingerprint").unlink()
    MANIFEST["metadata"]["generated_at"] = "later"
    assert dbt_project.graph_path().read_text() == written
    assert len(parses) == 2, "Cosmos hashes the file: an Airflow DAG would get a new version for nothing"


def test_cosmos_makes_the_same_nodes_of_the_graph_as_of_the_whole_manifest() -> None:
    """A Cosmos that reads more of a node needs it added to what `graph.json` keeps."""
    graph, kinds = dbt_project.graph_path(), {DbtResourceType.SOURCE, *OPERATORS}

    def nodes(path: Path) -> dict[str, DbtNode]:
        project = ProjectConfig(project_name="elt", manifest_path=path)
        found = DbtGraph(project, execution_config=ExecutionConfig(dbt_project_path=dbt_project.PROJECT_DIR))
        found.load_from_dbt_manifest()
        return {key: node for key, node in found.nodes.items() if node.resource_type in kinds}

    expected = nodes(graph.with_name("manifest.json"))
    assert expected and nodes(graph) == expected
