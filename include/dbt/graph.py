"""dbt's manifest → what becomes tasks: nodes, tests and source tables, their places, ids and edges, as dbt means them.

Worked out once, when the project was parsed, for every process that draws the graph. dbt is the only reader of dbt:
nothing here opens a file of the project.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from typing import Any

from include.dbt.names import (
    LONGEST_GROUP,
    LONGEST_LAYER,
    LONGEST_TASK,
    RESERVED_LAYERS,
    RESERVED_TASKS,
    accepted,
    group_of_table,
    hashed,
    layer_of_source,
)

BUILT = {"model": "run", "snapshot": "snapshot", "seed": "seed", "function": "create"}
"""What dbt builds, and the id of the task that does, within the node's group."""

TASKS_OF_NODE = frozenset({*BUILT.values(), "cut", "ended", "extract", "freshness", "load"})

LONE = "tests"
"""The group of tests that read no node."""

_NODE = ("unique_id", "resource_type", "package_name", "original_file_path", "description", "source_name")
_SOURCE = ("unique_id", "source_name", "name", "schema", "identifier")
_GENERIC = ("unique", "not_null")
_SOURCE_CALL = re.compile(r"source\('(.+)', '(.+)'\)")

Node = dict[str, Any]


def entries(manifest: Mapping[str, Any]) -> list[Node]:
    """The source tables to load, in dbt's order: those with `config.meta.extract`, their own or their source's."""
    project = manifest["metadata"]["project_name"]
    return [
        {name: node[name] for name in _SOURCE} | {"extract": _meta(node)["extract"], "file": _file(node, project)}
        for node in manifest["sources"].values()
        if is_loaded(node)
    ]


def is_loaded(node: Mapping[str, Any]) -> bool:
    """Whether a source table is ours to load, not somebody else's."""
    return _meta(node).get("extract") not in (None, False)


def draw(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What Cosmos and `include.orchestrate.rendering` read, in the manifest's own form but for the tests.

    An ephemeral model, or an empty one, is nobody's task: what depends on it depends on its parents.

    Returns:
        `nodes`, `sources` and `tests` by dbt's unique id, each with its place; `reading_order`, pairs of tables;
        `hooks`, the ends of a run at which there are any, by dbt's names; `schemas`, in which dbt makes something;
        `has_default_selector`, whether selectors.yml says what `dbt build` builds.
    """
    drawing = _Drawing(manifest)
    return {
        "metadata": {"project_name": drawing.project},
        "nodes": {key: drawing.node(node) for key, node in drawing.built.items()},
        "sources": {key: drawing.source(node) for key, node in drawing.sources.items()},
        "tests": {key: drawing.test(node) for key, node in sorted(drawing.tests.items())},
        "reading_order": sorted(drawing.references()),
        "hooks": sorted({tag for node in drawing.hooks for tag in node["tags"]}),
        "schemas": sorted(drawing.schemas()),
        "has_default_selector": any(each.get("default") for each in manifest.get("selectors", {}).values()),
    }


class _Drawing:
    def __init__(self, manifest: Mapping[str, Any]) -> None:
        self.project = manifest["metadata"]["project_name"]
        nodes = {**manifest["nodes"], **manifest.get("functions", {})}
        enabled = {key: node for key, node in nodes.items() if node["config"].get("enabled", True)}
        self.passed = {key: node for key, node in enabled.items() if _is_passed(node)}
        self.built = {key: node for key, node in enabled.items() if node["resource_type"] in BUILT}
        self.built = {key: node for key, node in self.built.items() if key not in self.passed}
        self.tests = {key: node for key, node in enabled.items() if node["resource_type"] == "test"}
        self.hooks = [node for node in enabled.values() if node["resource_type"] == "operation"]
        self.sources: dict[str, Node] = dict(manifest["sources"])
        self.names = {node["name"] for node in (*self.built.values(), *self.sources.values())}
        self.groups = {(group["package_name"], group["name"]): group for group in manifest.get("groups", {}).values()}
        self.source_names = {node["source_name"] for node in self.sources.values()}
        self.packages = {node["package_name"] for node in (*nodes.values(), *self.sources.values())} - {self.project}
        self.parents: dict[str, list[str]] = {key: self._parents(node) for key, node in self.built.items()}
        edges = {key: self._near(node) for key, node in (self.built | self.passed).items()}
        self.above: dict[str, set[str]] = {key: set() for key in self.sources}
        self.below: dict[str, set[str]] = {key: set() for key in (*self.sources, *edges)}
        for key in TopologicalSorter(edges).static_order():
            near = edges.get(key, [])
            self.above[key] = set(near).union(*(self.above[parent] for parent in near))
            for other in self.above[key]:
                self.below[other].add(key)

    def _near(self, node: Node) -> list[str]:
        """What a node reads, ephemeral models among it; sorted, as dbt's order is another after a partial parse."""
        named = (node.get("depends_on") or {}).get("nodes", ())
        return [key for key in sorted(named) if key in self.built or key in self.passed or key in self.sources]

    def _parents(self, node: Node) -> list[str]:
        """What a node waits for: in place of an ephemeral model, what that waits for."""
        found: dict[str, None] = {}
        for key in self._near(node):
            found |= dict.fromkeys(self._parents(self.passed[key]) if key in self.passed else [key])
        return list(found)

    def node(self, node: Node) -> Node:
        layer, group = self.place(node)
        drawn = self._drawn(node) | {"place": [layer, group], "title": node["unique_id"].split(".", 2)[2]}
        drawn |= {"depends_on": {"nodes": self.parents[node["unique_id"]]}}
        if node["resource_type"] != "function":
            drawn["asset"] = [node["schema"], node["alias"]]
        if node.get("language") == "python":
            drawn["problem"] = f"PostgreSQL runs no Python {node['resource_type']}; write it as SQL, or disable it"
        return drawn

    def source(self, node: Node) -> Node:
        drawn = self._drawn(node) | {"place": [*self.place(node)], "title": node["name"]}
        drawn |= {"is_loaded": is_loaded(node)} | ({"asset": [node["schema"], node["name"]]} if is_loaded(node) else {})
        freshness = node.get("freshness") or {}
        limits = (freshness.get("warn_after") or {}, freshness.get("error_after") or {})
        drawn["freshness"] = {"warn_after": limits[0], "error_after": limits[1]}
        counts = [limit.get("count") is not None for limit in limits]
        if any(counts) and not (node.get("loaded_at_field") or node.get("loaded_at_query") or is_loaded(node)):
            drawn["problem"] = (
                "`freshness:` needs `loaded_at_field:` here: PostgreSQL keeps no time of a table's last row"
            )
        return drawn | {"has_freshness": any(counts)} | ({"may_warn": True} if counts[0] else {})

    def test(self, node: Node) -> Node:
        parents = self._parents(node)
        place, task_id = self._test_id(node, parents)
        return (
            self._drawn(node)
            | {
                "title": node["name"],
                "last": self._last(parents),
                "parents": parents,
                "blocks": sorted(self._blocked_by(node)),
                "place": place,
                "task_id": task_id,
            }
            | ({"kept_in": node["schema"]} if node["config"].get("store_failures") else {})
            | ({"may_warn": True} if _may_warn(node["config"]) else {})
        )

    def _drawn(self, node: Node) -> Node:
        drawn = {name: node[name] for name in _NODE if node.get(name) is not None}
        drawn |= {"folder": self._folder(node), "file": _file(node, self.project)}
        meta = _meta(node)
        drawn |= {"settings": meta["cosmos"]} if meta.get("cosmos") is not None else {}
        owner = meta.get("owner") or self._owner(node)
        return drawn | ({"owner": str(owner)} if owner else {})

    def _owner(self, node: Node) -> str | None:
        """Of the node's group: who is told, as dbt has it."""
        group = self.groups.get((node["package_name"], node.get("group") or node["config"].get("group")), {})
        owner = group.get("owner") or {}
        return owner.get("name") or owner.get("email")

    def _folder(self, node: Node) -> str:
        """What the layer of a node is called: after its source, its package, its first folder or its kind."""
        if node["resource_type"] == "source" and (is_loaded(node) or node["package_name"] == self.project):
            return str(node["source_name"])
        if node["package_name"] != self.project:
            return str(node["package_name"])
        return next(iter(_folders(node)), "models") if node["resource_type"] == "model" else f"{node['resource_type']}s"

    def place(self, node: Node) -> tuple[str, str]:
        """The layer a node stands in, and its group there."""
        name, identity = node["unique_id"].split(".", 2)[2], node["unique_id"]  # with a model's version
        folder, is_ours = self._folder(node), node["package_name"] == self.project
        taken = RESERVED_LAYERS | RESERVED_TASKS | self.source_names
        if node["resource_type"] == "source" and folder == node["source_name"]:
            return layer_of_source(folder), group_of_table(folder, node["name"])
        if not is_ours:
            group = (accepted if node["resource_type"] == "model" else hashed)(name, identity, LONGEST_GROUP)
            return accepted(folder, f"package.{folder}", LONGEST_LAYER, taken), group
        group = accepted(name, identity, LONGEST_GROUP, RESERVED_TASKS)
        if node["resource_type"] != "model" or not _folders(node):
            return folder, group
        return accepted(folder, f"models/{folder}", LONGEST_LAYER, taken | self.packages), group

    def _test_id(self, node: Node, parents: list[str]) -> tuple[str, str]:
        """The group of a test and its id there: of its one parent; of several, their layer's; of none, `tests`.

        A generic test has arguments, and another may have its name: but for `unique` and `not_null` of a column, which
        are there once, its id carries a hash. A singular test has its name alone, unless a node is called the same.
        """
        place, name, identity = LONE, node["name"], node["unique_id"]
        if last := self._last(parents):
            place = ".".join(self.place(self._any(last))[: 2 if len(parents) == 1 else 1])
        metadata, column = node.get("test_metadata"), node.get("column_name")
        if not metadata and node["package_name"] == self.project:
            if name.startswith(tuple(f"{kind}_" for kind in _GENERIC)) or name in self.names:
                return place, hashed(name, identity, LONGEST_TASK)
            return place, accepted(name, identity, LONGEST_TASK, TASKS_OF_NODE | RESERVED_TASKS)
        short = _short_name(node)
        is_of_parent = last and self._any(last)["package_name"] == node["package_name"]  # or of a package's namesake
        if short and is_of_parent and self._near(node) == parents:
            return place, accepted(short, identity, LONGEST_TASK)
        if metadata and column and _is_default(node):
            name = f"{metadata['name']}_{column}"
        return place, hashed(name, identity, LONGEST_TASK)

    def _last(self, parents: list[str]) -> str | None:
        """The one with which a test of several stands: no other is downstream of it, whatever is added elsewhere."""
        upstream = set[str]().union(*(self.above[parent] for parent in parents))
        return max((parent for parent in parents if parent not in upstream), default=None)

    def _any(self, unique_id: str) -> Node:
        return self.built.get(unique_id) or self.sources[unique_id]

    def _blocked_by(self, test: Node) -> Iterator[str]:
        """Nodes that depend on all that a test reads, the nearest only: the others wait for those."""
        near = self._near(test)
        below = set.intersection(*(self.below[parent] for parent in near)) if near else set()
        return (each for each in below if each in self.built and below.isdisjoint(self.parents[each]))

    def schemas(self) -> set[str]:
        """Where dbt makes something: of tests, those that keep the rows which fail them."""
        kept = (node for node in self.tests.values() if node["config"].get("store_failures"))
        return {node["schema"] for node in (*self.built.values(), *kept)}

    def references(self) -> Iterator[tuple[str, str]]:
        """(child, parent) of every `relationships` test between two tables to load."""
        for node in self.tests.values():
            metadata = node.get("test_metadata") or {}
            tables = [key for key in self._parents(node) if key in self.sources and is_loaded(self.sources[key])]
            on = _SOURCE_CALL.search(metadata.get("kwargs", {}).get("model", ""))
            if metadata.get("name") == "relationships" and on:
                children = [key for key in tables if _names(self.sources[key]) == on.groups()]
                yield from ((child, parent) for child in children for parent in tables if child != parent)


def _is_passed(node: Node) -> bool:
    """Whether dbt builds nothing for it: it is put into what reads it, or has no text."""
    if node["resource_type"] == "model" and node["config"].get("materialized") == "ephemeral":
        return True
    return node["resource_type"] in ("model", "snapshot") and not node.get("raw_code", "-").strip()


def _may_warn(config: Node) -> bool:
    """Whether a test can find rows, and pass."""
    return str(config.get("severity")).lower() == "warn" or config.get("warn_if") != config.get("error_if")


def _meta(node: Mapping[str, Any]) -> dict[str, Any]:
    return (node.get("config") or {}).get("meta") or {}


def _names(node: Node) -> tuple[str, str]:
    return node["source_name"], node["name"]


def _folders(node: Node) -> list[str]:
    """Of a model's path, what lies between the models' folder and its file."""
    return node["fqn"][1 : -2 if node.get("version") is not None else -1]


def _file(node: Node, project: str) -> str:
    """The file to correct, as a person finds it."""
    path = node["original_file_path"]
    return f"dbt/{path}" if node["package_name"] == project else f"package {node['package_name']}, {path}"


def _is_default(node: Node) -> bool:
    """Whether a generic test has the name that dbt makes of its arguments, not one of its own."""
    name = node["test_metadata"]["name"]
    return node["name"].startswith((f"{name}_", f"source_{name}_", f"{node['test_metadata'].get('namespace')}_"))


def _short_name(node: Node) -> str | None:
    """`unique_id` of a test that can be there once alone: on a column, without arguments and name of its own."""
    metadata = node.get("test_metadata") or {}
    column = node.get("column_name")
    if metadata.get("name") not in _GENERIC or metadata.get("namespace") or not column:
        return None
    if metadata["kwargs"].keys() != {"column_name", "model"}:
        return None
    source = _SOURCE_CALL.search(metadata["kwargs"]["model"])
    start = ("source_{}_" if source else "{}_").format(metadata["name"])
    tested = "_".join(source.groups()) if source else (node.get("attached_node") or "").split(".", 2)[-1]
    made = start + tested.replace(".v", "_v") + "_" + re.sub("[^0-9a-zA-Z_]+", "_", column)
    return f"{metadata['name']}_{column}" if node["name"] == made else None
