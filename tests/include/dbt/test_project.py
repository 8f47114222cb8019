"""The project is parsed when it changed and at no other time; `graph.json` holds what rendering reads of the result."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cosmos import ExecutionConfig, ProjectConfig
from cosmos.constants import DbtResourceType
from cosmos.dbt.graph import DbtGraph

from include.dbt import project as dbt_project
from include.errors import ConfigError
from include.orchestrate.rendering import OPERATORS

READ: dict[str, list[str]] = {"environment": [], "folders": []}

MANIFEST: dict[str, Any] = {
    "metadata": {"project_name": "elt", "generated_at": "now"},
    "nodes": {
        f"{kind}.elt.{name}": {
            "unique_id": f"{kind}.elt.{name}",
            "resource_type": kind,
            "name": name,
            "package_name": "elt",
            "schema": "marts",
            "alias": name,
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

    def parse(target: Path, variables: dict[str, Any]) -> None:
        calls.append(target)
        (target / "manifest.json").write_text(json.dumps(MANIFEST))
        (target / "partial_parse.msgpack").touch()
        (target / "read.json").write_text(json.dumps(READ))

    monkeypatch.setattr(dbt_project, "_parse", parse)
    return calls


def test_parsed_again_when_a_file_changed_and_not_otherwise(project: Path, parses: list[Path]) -> None:
    dbt_project.graph_path()
    os.utime(project / "models/a.sql", (1, 1))
    (project / "target/compiled.sql").write_text("of a person")
    dbt_project.graph_path()
    assert len(parses) == 1, "times and dbt's own output are no reason to parse"
    changes = (
        lambda: (project / "models/a.sql").write_text("select 2"),  # as long as before
        lambda: (project / "models/target/b.yml").write_text("models: [{name: a}]"),
        lambda: (project / "models/a.sql").rename(project / "models/c.sql"),
        lambda: (project / "models/c.sql").unlink(),
        lambda: (project / "models/D.SQL").write_text("select 1"),
        lambda: (project / "models/e.sql.jinja").write_text("select 1"),
        lambda: (project / ".dbtignore").write_text("models/D.SQL"),
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


def test_parsed_again_when_a_variable_changed_that_dbt_read(
    parses: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(READ, "environment", ["REPORT_SCHEMA"])
    monkeypatch.delenv("REPORT_SCHEMA", raising=False)
    for number, value in enumerate(("reports", "other", ""), 2):
        dbt_project.graph_path()
        monkeypatch.setenv("REPORT_SCHEMA", value)
        monkeypatch.setenv("UNREAD", value)
        dbt_project.graph_path()
        assert len(parses) == number
    assert "reports" not in (parses[0].parent / "stamp.json").read_text(), "a value may be nobody's to read"


def test_parsed_once_for_the_variables_of_a_run(parses: list[Path]) -> None:
    manifests = {dbt_project._parsed(given)[0] for given in ({}, {"a": 1}, {"a": 2}, {"a": 1}, {}) for _ in range(2)}
    assert len(parses) == len(manifests) == 3


def test_files_beyond_links_and_of_folders_elsewhere_are_the_projects(
    project: Path, parses: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("package", "shared"):
        (tmp_path / name / "models").mkdir(parents=True)
        (tmp_path / name / "models/m.sql").write_text("select 1")
    (project / "dbt_packages").mkdir()
    (project / "dbt_packages/package").symlink_to(tmp_path / "package")
    (tmp_path / "package/models/round").symlink_to(tmp_path / "package")
    monkeypatch.setitem(READ, "folders", [str(tmp_path / "shared/models")])
    dbt_project.graph_path()
    for number, name in enumerate(("package", "shared"), 2):
        (tmp_path / name / "models/m.sql").write_text("select 2")
        dbt_project.graph_path()
        assert len(parses) == number
    read = [path for path, _ in dbt_project._files([str(project), str(tmp_path / "package")])]
    assert len(read) == len({os.path.realpath(path) for path in read}), "nothing is hashed twice"


def test_an_image_of_another_environment_is_left_alone_and_parsed_beside(
    project: Path, parses: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The folder that came with it belongs to root, and the container's file system can only be read."""
    monkeypatch.setitem(READ, "environment", ["REPORT_SCHEMA"])
    monkeypatch.setenv("REPORT_SCHEMA", "of the build")
    baked = dbt_project.graph_path().read_bytes()
    monkeypatch.setattr(dbt_project.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(dbt_project.os, "access", lambda path, mode: False)
    assert dbt_project.graph_path().is_relative_to(project)
    monkeypatch.setenv("REPORT_SCHEMA", "of the container")
    for _ in range(2):
        assert dbt_project.graph_path().is_relative_to(tmp_path / f"elt-dbt-{os.getuid()}")
    assert len(parses) == 2
    assert (project / "target/graph/graph.json").read_bytes() == baked


def test_packages_that_are_not_those_of_the_lists_are_named(project: Path, parses: list[Path]) -> None:
    dbt_project.graph_path()
    (project / "packages.yml").write_text("packages: [{local: ../package}]")
    with pytest.raises(ConfigError, match="packages.yml.* not installed, or the lists changed since; run `make setup`"):
        dbt_project.graph_path()
    assert len(parses) == 1


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
    (project / "target/graph/stamp.json").unlink()
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
        return {
            node.unique_id: (node.resource_type, node.name, node.file_path, sorted(node.depends_on)) for node in kept
        }

    expected = nodes(graph.with_name("manifest.json"))
    assert expected and nodes(graph) == expected


def test_a_long_message_of_dbts_still_names_the_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = f"Compilation Error in model a (models/a.sql) {'x' * 5000} at its end"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, said, ""))
    with pytest.raises(ConfigError, match=r"dbt cannot parse the project: .*models/a\.sql.* … x*xx at its end$"):
        dbt_project.graph_path()
