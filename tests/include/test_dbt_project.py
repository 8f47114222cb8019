"""The project is parsed when it changed and at no other time; `graph.json` holds what rendering reads of the result."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cosmos import ExecutionConfig, ProjectConfig
from cosmos.constants import DbtResourceType
from cosmos.dbt.graph import DbtGraph

from include import dbt_project
from include.rendering import OPERATORS

MANIFEST: dict[str, Any] = {
    "metadata": {"project_name": "elt", "generated_at": "now"},
    "nodes": {
        f"{kind}.elt.{name}": {
            "unique_id": f"{kind}.elt.{name}",
            "resource_type": kind,
            "name": name,
            "package_name": "elt",
            "original_file_path": f"{kind}s/marts/{name}.sql",
            "fqn": ["elt", "marts", name],
            "config": {"enabled": True},
            "depends_on": {"nodes": [] if kind == "model" else ["model.elt.a"]},
            "raw_code": "select 1",
        }
        for kind, name in (("model", "a"), ("test", "b"))
    },
    "sources": {},
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
    graph = json.loads(written)
    assert graph["nodes"]["model.elt.a"]["place"] == ["marts", "a"] and "raw_code" not in written
    assert graph["tests"]["test.elt.b"]["parents"] == ["model.elt.a"] and "test.elt.b" not in graph["nodes"]
    (project / "target/graph/fingerprint").unlink()
    MANIFEST["metadata"]["generated_at"] = "later"
    assert dbt_project.graph_path().read_text() == written
    assert len(parses) == 2, "Cosmos hashes the file: an Airflow DAG would get a new version for nothing"


def test_cosmos_makes_the_same_nodes_of_the_graph_as_of_the_whole_manifest() -> None:
    """A Cosmos that reads more of a node to wire it needs that added to what `graph.json` keeps."""
    graph = dbt_project.graph_path()
    kinds = {DbtResourceType.SOURCE, *(DbtResourceType(kind) for kind in OPERATORS)}

    def nodes(path: Path) -> dict[str, Any]:
        project = ProjectConfig(project_name="elt", manifest_path=path)
        found = DbtGraph(project, execution_config=ExecutionConfig(dbt_project_path=dbt_project.PROJECT_DIR))
        found.load_from_dbt_manifest()
        kept = (node for node in found.nodes.values() if node.resource_type in kinds)
        return {node.unique_id: (node.resource_type, node.name, node.file_path, node.depends_on) for node in kept}

    expected = nodes(graph.with_name("manifest.json"))
    assert expected and nodes(graph) == expected
