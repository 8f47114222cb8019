"""The dbt project as Airflow tasks: one per source table's extract and load, per model, snapshot, seed and test.

Cosmos reads the manifest and wires its nodes; the methods here say what a node becomes and in which group it stands.
Tests are added afterwards, because a test may have several parents: Cosmos 1.15.1 hands the converter of such a test
the last rendered node instead of the test.
"""

from __future__ import annotations

import gc
import inspect
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import structlog
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, TaskGroup, TriggerRule, get_parsing_context
from airflow.sdk.bases.operator import BaseOperator
from airflow.sdk.definitions.param import ParamsDict
from cosmos import ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import DbtResourceType, InvocationMode, LoadMode, SourceRenderingBehavior, TestBehavior
from cosmos.converter import DbtToAirflowConverter
from cosmos.dbt.graph import DbtNode
from cosmos.operators import local as cosmos_operators

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

# Cosmos 1.15.1 reads the signatures of the same three constructors again for each operator: a quarter of parsing.
# Unnecessary once it remembers them (tests/include/test_rendering.py asks; as it does for what follows).
_REMEMBERED = {"signature": cache(inspect.signature), "getfullargspec": cache(inspect.getfullargspec)}
cosmos_operators.inspect = SimpleNamespace(**{**vars(inspect), **_REMEMBERED})

# Airflow 3.3.2 asks twice an edge for the hash of its DAG, and makes it of all task ids. Equal DAGs have the same name.
# Unnecessary once it hashes no task ids.
DAG.__hash__ = lambda dag: hash(dag.dag_id)

_SOURCE_CALL = re.compile(r"""source\(\s*['"](.+?)['"]\s*,\s*['"](.+?)['"]\s*\)""")

PROFILE = ProfileConfig(
    profile_name=dbt_project.PROFILE,
    target_name=dbt_project.TARGET,
    profiles_yml_filepath=dbt_project.PROJECT_DIR / "profiles.yml",
)


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Garbage collection off: rendering creates no garbage, and each collection walks all tasks."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_no_garbage()
def render_pipeline(dag: DAG) -> None:
    """Add every task of the pipeline to `dag`: sources, models and tests, in the order dbt's graph demands.

    A process that Airflow starts for one task gets that one alone, with the group it stands in.

    Raises:
        ConfigError: a source entry or the dbt project is broken; names file and remedy.
    """
    specs = {spec.name: spec for spec in load_specs(dbt_project.MODELS_DIR)}
    path = dbt_project.graph_path()
    pipeline = _Pipeline(dag, specs, json.loads(path.read_text(encoding="utf-8")), get_parsing_context().task_id)
    project = ProjectConfig(
        dbt_project_path=dbt_project.PROJECT_DIR, project_name=dbt_project.PROFILE, install_dbt_deps=False
    )
    project.manifest_path = path  # as an argument it would become a path of Airflow's own, whose reads load plugins
    # A run takes its parameters from the DAG; every task would copy them several times over.
    params, dag.params = dag.params, ParamsDict()
    DbtToAirflowConverter(
        dag=dag,
        project_config=project,
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
    dag.params = params


class _Reachable(dict[str, set[str]]):
    """All that can be reached from a node along `edges`, worked out once."""

    def __init__(self, edges: dict[str, list[str]]) -> None:
        super().__init__()
        self._edges = edges

    def __missing__(self, unique_id: str) -> set[str]:
        near = set(self._edges.get(unique_id, ()))
        self[unique_id] = near.union(*(self[other] for other in near))
        return self[unique_id]


class _Pipeline:
    """The tasks made so far, by dbt's unique id, and the groups they stand in.

    Args:
        only: Id of the one task that is needed; None for all.
    """

    def __init__(self, dag: DAG, specs: dict[str, TableSpec], graph: dict[str, Any], only: str | None) -> None:
        self.dag = dag
        self.specs = specs
        self.only = only
        self.nodes: dict[str, Any] = {**graph["nodes"], **graph["sources"]}
        self.tests: dict[str, Any] = graph["tests"]
        self.parents: dict[str, list[str]] = graph["parent_map"]
        self.first_task: dict[str, BaseOperator] = {}
        self.reading_task: dict[str, BaseOperator] = {}
        self.ended: dict[str, BaseOperator] = {}
        self.last_task: dict[str, BaseOperator] = {}
        self.groups: dict[str, TaskGroup] = {}
        self.horizons: dict[str, Any] = {}
        self.task_args: dict[str, Any] = {}
        self.above = _Reachable(graph["parent_map"])
        self.below = _Reachable(graph["child_map"])

    def add_source(self, node: DbtNode) -> TaskGroup | None:
        """A source table: extract, then load; of one that may be cut, an extract for each range."""
        source, table = self._place_of(node.unique_id)
        if not self._is_wanted(f"{source}.{table}") and self.only != f"{source}.horizon":
            return None
        with self._layer(source):
            if source not in self.horizons:
                self.horizons[source] = open_run(source)
            with self._group(node.unique_id, table) as group:
                name = f"{source}.{table}"
                begin = cut if self.specs[name].rows_per_range else extract
                begun = begin(name, self.horizons[source])
                batch = extract_range.expand(part=begun) if begin is cut else begun
                loaded = load(name, batch)
        self.first_task[node.unique_id], self.last_task[node.unique_id] = begun.operator, loaded.operator
        self.reading_task[node.unique_id] = batch.operator
        if self.only == f"{name}.ended":
            self._ended(node.unique_id)
        return group

    def add_node(self, node: DbtNode, task_args: dict[str, Any]) -> TaskGroup | None:
        """A model, snapshot or seed: one task in a group that its tests join later."""
        self.task_args = task_args
        layer, name = self._place_of(node.unique_id)
        if not self._is_wanted(f"{layer}.{name}"):
            return None
        task_id, operator = OPERATORS[node.resource_type]
        with self._layer(layer), self._group(node.unique_id, name) as group:
            task = operator(**_arguments(self.nodes[node.unique_id]), **task_args, task_id=task_id)
        self.first_task[node.unique_id] = self.last_task[node.unique_id] = task
        return group

    def add_tests(self) -> None:
        """One task per data test, after all its parents and before what depends on all of them, as `dbt build` does."""
        taken: set[str] = set()
        for unique_id, node in sorted(self.tests.items()):
            parents = [parent for parent in self.parents[unique_id] if parent in self.nodes]
            place = self._place_of_test(parents)
            task_id = self._test_id(node, place, taken)
            taken.add(f"{place}.{task_id}")
            if self.only in (None, f"{place}.{task_id}"):
                self._add_test(node, task_id, parents)

    def _add_test(self, node: dict[str, Any], task_id: str, parents: list[str]) -> None:
        with self.groups[parents[0]] if len(parents) == 1 else self._layer(self._place_of_test(parents)):
            task = DbtTest(**_arguments(node), **self.task_args, task_id=task_id)
        for neighbour in (parent for parent in parents if parent in self.last_task):
            self.last_task[neighbour] >> task
        for blocked in self._blocked_by(parents):
            task >> self.first_task[blocked]

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
                self._ended(child) >> self.first_task[parent]

    def _ended(self, unique_id: str) -> BaseOperator:
        """A task that succeeds when the table is read, or has failed or was left out: none of that stops the next one.

        Without it the next would have to start whatever its upstream tasks came to, the horizon among them. Airflow
        starts no process for it.
        """
        if unique_id not in self.ended:
            with self.groups[unique_id]:
                self.ended[unique_id] = EmptyOperator(task_id="ended", trigger_rule=TriggerRule.ALL_DONE)
            self.reading_task[unique_id] >> self.ended[unique_id]
        return self.ended[unique_id]

    def _references(self) -> Iterator[tuple[str, str]]:
        """(child, parent) of every `relationships` test between two sources."""
        for unique_id, node in self.tests.items():
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
        return {unique_id for unique_id in self.first_task if self.nodes[unique_id]["resource_type"] == "source"}

    def _upstream_extracts(self, unique_id: str) -> set[str]:
        above = self.first_task[unique_id].get_flat_relative_ids(upstream=True)
        return {other for other in self.sources if self.first_task[other].task_id in above}

    def _blocked_by(self, parents: list[str]) -> Iterator[str]:
        """Nodes that depend on all `parents`, the nearest only: the others wait for those."""
        below = set.intersection(*(self.below[parent] for parent in parents)) if parents else set()
        return (each for each in below if each in self.first_task and below.isdisjoint(self.parents[each]))

    def _is_wanted(self, group_id: str) -> bool:
        return self.only is None or self.only.startswith(f"{group_id}.")

    def _place_of(self, unique_id: str) -> tuple[str, str]:
        """The layer a node stands in, and the name of its group there."""
        node = self.nodes[unique_id]
        if node["resource_type"] == "source":
            return node["source_name"], node["name"]
        layer = node["fqn"][1] if node["resource_type"] == "model" else f"{node['resource_type']}s"
        return layer, unique_id.split(".", 2)[2].replace(".", "_")  # after a dot comes a model's version

    def _place_of_test(self, parents: list[str]) -> str:
        """The group of its one parent; of several, the layer of the one furthest downstream; of none, `tests`."""
        if not parents:
            return "tests"
        layer, group = self._place_of(max(parents, key=lambda parent: len(self.above[parent])))
        return f"{layer}.{group}" if len(parents) == 1 else layer

    def _layer(self, name: str) -> TaskGroup:
        if name not in self.groups:
            self.groups[name] = TaskGroup(name, dag=self.dag)
        return self.groups[name]

    def _group(self, unique_id: str, name: str) -> TaskGroup:
        tooltip = self.nodes[unique_id].get("description") or ""
        self.groups[unique_id] = TaskGroup(name, tooltip=tooltip, dag=self.dag)
        return self.groups[unique_id]

    def _test_id(self, node: dict[str, Any], place: str, taken: set[str]) -> str:
        """`unique_customer_id` in the group of its model; the test's own name where two would clash."""
        metadata = node.get("test_metadata")
        column = node.get("column_name")
        if metadata and column:
            short = f"{metadata['name']}_{column}"
            if f"{place}.{short}" not in taken:
                return short
        return node["name"]


def _arguments(node: dict[str, Any]) -> dict[str, Any]:
    """What an operator is told of its node."""
    return {
        "select": f"fqn:{'.'.join(node['fqn'])}",
        "doc_md": node.get("description") or None,
        "extra_context": {"dbt_unique_id": node["unique_id"]},
    }
