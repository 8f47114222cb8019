"""The dbt project as Airflow tasks: one per source table's extract and load, per model, snapshot, seed and test.

Cosmos reads the manifest and wires its nodes; the methods here say what a node becomes and in which group it stands.
Tests are added afterwards, because a test may have several parents: Cosmos 1.15.1 hands the converter of such a test
the last rendered node instead of the test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import structlog
from airflow.sdk import DAG, TaskGroup, TriggerRule
from airflow.sdk.bases.operator import BaseOperator
from cosmos import ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import DbtResourceType, InvocationMode, LoadMode, SourceRenderingBehavior, TestBehavior
from cosmos.converter import DbtToAirflowConverter
from cosmos.dbt.graph import DbtNode

from include import dbt_project
from include.dbt_tasks import DbtRun, DbtSeed, DbtSnapshot, DbtTest
from include.sources import TableSpec, load_specs
from include.tasks import cut, extract, extract_range, load, open_run

log = structlog.get_logger(__name__)

OPERATORS = {
    DbtResourceType.MODEL: ("run", DbtRun),
    DbtResourceType.SNAPSHOT: ("snapshot", DbtSnapshot),
    DbtResourceType.SEED: ("seed", DbtSeed),
}
"""What a node that builds something becomes: the task's id inside the node's group, and its operator."""

_SOURCE_CALL = re.compile(r"""source\(\s*['"](.+?)['"]\s*,\s*['"](.+?)['"]\s*\)""")

PROFILE = ProfileConfig(
    profile_name=dbt_project.PROFILE,
    target_name=dbt_project.TARGET,
    profiles_yml_filepath=dbt_project.PROJECT_DIR / "profiles.yml",
)


def render_pipeline(dag: DAG) -> None:
    """Add every task of the pipeline to `dag`: sources, models and tests, in the order dbt's graph demands.

    Raises:
        ConfigError: a source entry or the dbt project is broken; names file and remedy.
    """
    specs = {spec.name: spec for spec in load_specs(dbt_project.MODELS_DIR)}
    path = dbt_project.manifest_path()
    pipeline = _Pipeline(dag, specs, json.loads(path.read_text(encoding="utf-8")))
    DbtToAirflowConverter(
        dag=dag,
        project_config=ProjectConfig(
            manifest_path=path,
            dbt_project_path=dbt_project.PROJECT_DIR,
            project_name=dbt_project.PROFILE,
            install_dbt_deps=False,
        ),
        profile_config=PROFILE,
        execution_config=ExecutionConfig(invocation_mode=InvocationMode.DBT_RUNNER),
        render_config=RenderConfig(
            load_method=LoadMode.DBT_MANIFEST,
            source_rendering_behavior=SourceRenderingBehavior.ALL,
            test_behavior=TestBehavior.NONE,
            # Functions, not bound methods: Cosmos copies its configuration deeply, and with a method its object.
            node_converters={
                DbtResourceType.SOURCE: lambda node, **_: pipeline.add_source(node),
                **dict.fromkeys(OPERATORS, lambda node, task_args, **_: pipeline.add_node(node, task_args)),
            },
        ),
        operator_args={"emit_datasets": False, "trigger_rule": TriggerRule.NONE_FAILED},
    )
    pipeline.order_extracts()
    pipeline.add_tests()


class _Pipeline:
    """The tasks made so far, by dbt's unique id, and the groups they stand in."""

    def __init__(self, dag: DAG, specs: dict[str, TableSpec], manifest: dict[str, Any]) -> None:
        self.dag = dag
        self.specs = specs
        self.nodes: dict[str, Any] = {**manifest["nodes"], **manifest["sources"]}
        self.parents: dict[str, list[str]] = manifest["parent_map"]
        self.first: dict[str, BaseOperator] = {}
        self.read: dict[str, BaseOperator] = {}
        self.last: dict[str, BaseOperator] = {}
        self.groups: dict[str, TaskGroup] = {}
        self.horizons: dict[str, Any] = {}
        self.task_args: dict[str, Any] = {}
        self._above: dict[str, set[str]] = {}

    def add_source(self, node: DbtNode) -> TaskGroup:
        """A source table: extract, then load; of one that may be cut, an extract for each range."""
        source, table = node.unique_id.split(".")[-2:]
        with self._layer(source):
            if source not in self.horizons:
                self.horizons[source] = open_run(source)
            with self._group(node.unique_id, table) as group:
                name = f"{source}.{table}"
                begin = cut if self.specs[name].rows_per_range else extract
                begun = begin(name, self.horizons[source])
                batch = extract_range.expand(part=begun) if begin is cut else begun
                loaded = load(name, batch)
        self.first[node.unique_id], self.last[node.unique_id] = begun.operator, loaded.operator
        self.read[node.unique_id] = batch.operator
        return group

    def add_node(self, node: DbtNode, task_args: dict[str, Any]) -> TaskGroup:
        """A model, snapshot or seed: one task in a group that its tests join later."""
        task_id, operator = OPERATORS[node.resource_type]
        with self._layer(self._layer_of(node.unique_id)), self._group(node.unique_id, node.name) as group:
            task = operator(**self._arguments(node.unique_id), **task_args, task_id=task_id)
        self.first[node.unique_id] = self.last[node.unique_id] = task
        self.task_args = task_args
        return group

    def add_tests(self) -> None:
        """One task per data test, after all its parents and before what depends on all of them, as `dbt build` does."""
        for unique_id, node in sorted(self.nodes.items()):
            if node["resource_type"] != "test":
                continue
            parents = [parent for parent in self.parents[unique_id] if parent in self.last]
            with self._group_of_test(unique_id, parents) as group:
                task_id = self._test_id(node, group)
                task = DbtTest(**self._arguments(unique_id), **self.task_args, task_id=task_id)
            for parent in parents:
                self.last[parent] >> task
            for blocked in self._blocked_by(set(parents)):
                task >> self.first[blocked]

    def order_extracts(self) -> None:
        """Read children before parents: what a foreign key names in an earlier snapshot exists in a later one.

        The foreign keys are the `relationships` tests between sources.
        """
        for child, parent in sorted(self._references()):
            if parent in self._upstream_extracts(child):
                log.warning(
                    "references form a circle: no order of extraction keeps them all", child=child, parent=parent
                )
            else:
                self.read[child] >> self.first[parent]

    def _references(self) -> Iterator[tuple[str, str]]:
        """(child, parent) of every `relationships` test between two sources."""
        for unique_id, node in self.nodes.items():
            metadata = node.get("test_metadata") or {}
            to = _SOURCE_CALL.search(metadata.get("kwargs", {}).get("to", ""))
            if metadata.get("name") == "relationships" and to:
                sources = [parent for parent in self.parents[unique_id] if parent in self.sources]
                yield from (
                    (child, parent)
                    for child in sources
                    for parent in sources
                    if child != parent and parent.endswith(f".{to[1]}.{to[2]}")
                )

    @property
    def sources(self) -> set[str]:
        return {unique_id for unique_id in self.first if self.nodes[unique_id]["resource_type"] == "source"}

    def _upstream_extracts(self, unique_id: str) -> set[str]:
        above = self.first[unique_id].get_flat_relative_ids(upstream=True)
        return {other for other in self.sources if self.first[other].task_id in above}

    def _blocked_by(self, parents: set[str]) -> Iterator[str]:
        """Nodes that depend on all `parents`, the nearest only: the others wait for those."""
        for unique_id in self.first:
            if parents <= self._ancestors(unique_id):
                if not any(parents <= self._ancestors(above) for above in self.parents[unique_id]):
                    yield unique_id

    def _ancestors(self, unique_id: str) -> set[str]:
        if unique_id not in self._above:
            parents = set(self.parents.get(unique_id, ()))
            self._above[unique_id] = parents.union(*(self._ancestors(parent) for parent in parents))
        return self._above[unique_id]

    def _arguments(self, unique_id: str) -> dict[str, Any]:
        node = self.nodes[unique_id]
        return {
            "select": f"fqn:{'.'.join(node['fqn'])}",
            "doc_md": node.get("description") or None,
            "extra_context": {"dbt_unique_id": unique_id},
        }

    def _layer_of(self, unique_id: str) -> str:
        node = self.nodes[unique_id]
        if node["resource_type"] == "source":
            return node["source_name"]
        return node["fqn"][1] if node["resource_type"] == "model" else f"{node['resource_type']}s"

    def _layer(self, name: str) -> TaskGroup:
        if name not in self.groups:
            self.groups[name] = TaskGroup(name, dag=self.dag)
        return self.groups[name]

    def _group(self, unique_id: str, name: str) -> TaskGroup:
        self.groups[unique_id] = TaskGroup(name, dag=self.dag)
        return self.groups[unique_id]

    def _group_of_test(self, unique_id: str, parents: list[str]) -> TaskGroup:
        """The group of its one parent; a test with several stands in the layer of the parent furthest downstream."""
        if len(parents) == 1:
            return self.groups[parents[0]]
        return self._layer(self._layer_of(max(parents, key=lambda parent: len(self._ancestors(parent)))))

    def _test_id(self, node: dict[str, Any], group: TaskGroup) -> str:
        """`unique_customer_id` in the group of its model; the test's own name outside, or where two would clash."""
        metadata = node.get("test_metadata")
        column = node.get("column_name")
        if metadata and column:
            short = f"{metadata['name']}_{column}"
            if group.child_id(short) not in self.dag.task_ids:
                return short
        return node["name"]
