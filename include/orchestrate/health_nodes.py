"""What dbt reads, builds and tests, for the page Pipeline health: each node, its task, and its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from include.dbt.graph import BUILT


@dataclass(frozen=True)
class Node:
    """A node of the dbt project that has a task, or a source table.

    Attributes:
        unique_id: dbt's.
        title: What it is called: a model's version as well, a source's name before its table.
        kind: What dbt calls it: `model`, `test`, `source`.
        file: Where a person finds it.
        description: As the project has it.
        task_id: Of the task that loads, builds or tests it; empty: none does.
        reads: Unique ids of its parents, those of an ephemeral model in its place.
        read_by: Unique ids of the nodes that read it, tests not among them.
        tests: Unique ids of the tests that read it.
        is_loaded: Whether it is a source table of which the pipeline loads the rows.
    """

    unique_id: str
    title: str
    kind: str
    file: str
    description: str
    task_id: str
    reads: list[str]
    read_by: list[str] = field(default_factory=list)
    tests: list[str] = field(default_factory=list)
    is_loaded: bool = False


def nodes(graph: Mapping[str, Any]) -> dict[str, Node]:
    """Each node of `graph.json` (`include.dbt.graph.draw`), by its unique id; sources first, tests last."""
    drawn = [
        each for kind in ("sources", "nodes") for each in sorted(graph[kind].values(), key=lambda node: node["place"])
    ]
    found = {node["unique_id"]: _node(node, node.get("depends_on", {}).get("nodes", [])) for node in drawn}
    for node in list(found.values()):
        for parent in node.reads:
            found[parent].read_by.append(node.unique_id)
    for test in graph["tests"].values():
        found[test["unique_id"]] = _node(test, test["parents"])
        for parent in test["parents"]:
            found[parent].tests.append(test["unique_id"])
    return found


def _node(drawn: Mapping[str, Any], reads: list[str]) -> Node:
    kind = drawn["resource_type"]
    title = f"{drawn['source_name']}.{drawn['title']}" if kind == "source" else drawn["title"]
    return Node(
        drawn["unique_id"],
        title,
        kind,
        drawn["file"],
        drawn.get("description") or "",
        _task_id(drawn),
        list(reads),
        is_loaded=drawn.get("is_loaded", False),
    )


def _task_id(drawn: Mapping[str, Any]) -> str:
    if drawn["resource_type"] == "test":
        return f"{drawn['place']}.{drawn['task_id']}"
    task = BUILT.get(drawn["resource_type"]) or ("load" if drawn["is_loaded"] else "freshness")
    return ".".join([*drawn["place"], task]) if task != "freshness" or drawn["has_freshness"] else ""
