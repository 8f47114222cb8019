"""The dbt project as Airflow tasks: one per source table's extract and load, per model, snapshot, seed and test.

Cosmos wires the nodes of the graph that was drawn of dbt's manifest; the methods here make a task of each.
Tests are added afterwards, because a test may have several parents: Cosmos 1.15.1 hands the converter of such a test
the last rendered node instead of the test.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, TaskGroup, TriggerRule, get_parsing_context
from airflow.sdk.bases.operator import BaseOperator
from airflow.sdk.definitions.param import ParamsDict
from cosmos import ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import DbtResourceType, InvocationMode, LoadMode, SourceRenderingBehavior, TestBehavior
from cosmos.converter import DbtToAirflowConverter

from include.dbt import project as dbt_project
from include.dbt.graph import BUILT
from include.orchestrate.assets import warehouse_asset
from include.orchestrate.dbt_tasks import (
    HOOKS,
    ON_RUN_END,
    DbtFreshness,
    DbtFunction,
    DbtHooks,
    DbtRun,
    DbtSeed,
    DbtSnapshot,
    DbtTest,
    built_by,
)
from include.orchestrate.parts import Part, part_of
from include.orchestrate.task_settings import NodeSettings, TableSettings, read_settings
from include.orchestrate.tasks import cut, extract, extract_range, load, open_run, refuse
from include.patches.airflow import hash_by_name, ours
from include.patches.cosmos import remember_signatures
from include.sources import Tables, load_tables

log = structlog.get_logger(__name__)

OPERATORS = {"model": DbtRun, "snapshot": DbtSnapshot, "seed": DbtSeed, "function": DbtFunction}
"""What builds a node, by what dbt calls it."""

remember_signatures()
hash_by_name()

PROFILE = ProfileConfig(
    profile_name=dbt_project.PROFILE,
    target_name="",  # which Cosmos wants; dbt takes the one that profiles.yml names
    profiles_yml_filepath=dbt_project.PROJECT_DIR / "profiles.yml",
)

ALL_BUILT = "all_built"
"""The task after the hooks at the end of a run."""

ARGUMENTS = {
    "project_dir": dbt_project.PROJECT_DIR,
    "profile_config": PROFILE,
    "invocation_mode": InvocationMode.DBT_RUNNER,
    "install_deps": False,
    "emit_datasets": False,
    "trigger_rule": TriggerRule.NONE_FAILED,
}
"""Of every dbt task."""


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
def render_pipeline(dag: DAG, select: str | None = None) -> list[str]:
    """Add every task of the pipeline to `dag`: sources, models and tests, in the order dbt's graph demands.

    What cannot work is a task that fails with one sentence, in the place of what it would have done. A process that
    Airflow starts for one task gets that one alone, with the group it stands in.

    Args:
        dag: Where they go.
        select: A dbt selection, as a plain text: this DAG has these nodes, and no other DAG has them. Without one it
            has all that no DAG file selects.

    Returns:
        Ids of the tasks that build marts: the models of the layer `marts`, or every model where there is no such layer.

    Raises:
        ConfigError: dbt cannot parse the project, or selects nothing; names file and remedy.
    """
    ours.add(dag.dag_id)
    path = dbt_project.graph_path()
    graph = json.loads(path.read_text(encoding="utf-8"))
    pipeline = _Pipeline(dag, load_tables(), graph, part_of(select, graph), get_parsing_context().task_id)
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
        execution_config=ExecutionConfig(),
        render_config=RenderConfig(
            load_method=LoadMode.DBT_MANIFEST,
            source_rendering_behavior=SourceRenderingBehavior.ALL,
            test_behavior=TestBehavior.NONE,
            # Functions, not bound methods: Cosmos copies its configuration deeply, and with a method its object.
            node_converters={
                DbtResourceType.SOURCE: lambda node, **_: pipeline.add_source(node.unique_id),
                **{DbtResourceType(kind): lambda node, **_: pipeline.add_node(node.unique_id) for kind in OPERATORS},
            },
        ),
    )
    pipeline.order_extracts()
    pipeline.add_tests()
    pipeline.order_across()
    pipeline.add_hooks()
    if pipeline.only in (None, "check_parameters"):
        built_by[dag.dag_id] = pipeline.tasks.keys()
    dag.params = params
    return pipeline.marts


def assets_before(select: str) -> list[Asset]:
    """What the nodes of a selection read of other DAGs' nodes: a schedule for the DAG that has them.

    Raises:
        ConfigError: as `render_pipeline`.
    """
    graph = json.loads(dbt_project.graph_path().read_text(encoding="utf-8"))
    part, nodes = part_of(select, graph), {**graph["nodes"], **graph["sources"]}
    read = {parent for key, node in graph["nodes"].items() if key in part for parent in node["depends_on"]["nodes"]}
    return [warehouse_asset(*nodes[key]["asset"]) for key in sorted(read) if key not in part and "asset" in nodes[key]]


class _Pipeline:
    """The tasks made so far, by dbt's unique id, and the groups they stand in.

    Args:
        tables: The source tables to load.
        graph: What `include.dbt.graph.draw` made of dbt's manifest.
        part: Which of its nodes this DAG has.
        only: Id of the one task that is needed; None for all.
    """

    def __init__(self, dag: DAG, tables: Tables, graph: dict[str, Any], part: Part, only: str | None) -> None:
        self.dag = dag
        self.part = part
        self.tables = tables
        self.only = only
        self.nodes: dict[str, Any] = {**graph["nodes"], **graph["sources"]}
        self.tests: dict[str, Any] = graph["tests"]
        self.reading_order: list[list[str]] = graph["reading_order"]
        self.hooks: list[str] = graph["hooks"]
        self.first_task: dict[str, BaseOperator] = {}
        self.reading_task: dict[str, BaseOperator] = {}
        self.ended: dict[str, BaseOperator] = {}
        self.last_task: dict[str, BaseOperator] = {}
        self.test_task: dict[str, BaseOperator] = {}
        self.blocking: dict[str, list[BaseOperator]] = {}
        self.groups: dict[str, TaskGroup] = {}
        self.horizons: dict[str, Any] = {}

    def add_source(self, unique_id: str) -> TaskGroup | None:
        """A table to load: extract, then load; of one that may be cut, an extract for each range. Of others: nothing,
        or a look whether they are fresh."""
        node = self.nodes[unique_id]
        layer, source = node["place"][0], node["source_name"]
        if unique_id not in self.part or not (self._is_wanted(node) or self.only == f"{layer}.horizon"):
            return None
        if not node["is_loaded"]:
            return self._watch(unique_id) if node["has_freshness"] else None
        problem = self.tables.problems.get(unique_id)
        with self._layer(layer, node["folder"]):
            if not problem and source not in self.horizons:
                self.horizons[source] = open_run(source)
            with self._group(unique_id) as group:
                self._load(unique_id) if not problem else self._refuse(unique_id, "extract", problem.sentence)
        if self.only == "{}.{}.ended".format(*node["place"]) and unique_id in self.reading_task:
            self._ended(unique_id)
        return group

    def _watch(self, unique_id: str) -> TaskGroup:
        with self._group_of(unique_id) as group:
            task = self._run(self.nodes[unique_id], DbtFreshness, "freshness")
        self.first_task[unique_id] = self.last_task[unique_id] = task
        return group

    def _load(self, unique_id: str) -> None:
        spec, node = self.tables.specs[unique_id], self.nodes[unique_id]
        try:
            self._check_claim(unique_id)
            arguments = _settings(node, TableSettings)
        except ValueError as error:
            return self._refuse(unique_id, "extract", f"{node['file']}: table {spec.name}: {error}")
        begin = cut if spec.rows_per_range else extract
        begun = begin.override(**arguments)(spec.name, self.horizons[spec.source])
        batch = extract_range.override(**arguments).expand(part=begun) if begin is cut else begun
        outlets = self._outlets([spec.raw_schema, spec.table])
        loaded = load.override(**arguments, **outlets)(spec.name, batch)
        self.first_task[unique_id], self.last_task[unique_id] = begun.operator, loaded.operator
        self.reading_task[unique_id] = batch.operator

    def add_node(self, unique_id: str) -> TaskGroup | None:
        """A model, snapshot, seed or function: one task in a group that its tests join later."""
        node = self.nodes[unique_id]
        if unique_id not in self.part or not self._is_wanted(node):
            return None
        with self._layer(node["place"][0], node["folder"]), self._group(unique_id) as group:
            task = self._run(node, OPERATORS[node["resource_type"]], BUILT[node["resource_type"]])
        self.first_task[unique_id] = self.last_task[unique_id] = task
        return group

    def add_tests(self) -> None:
        """One task per data test, after all its parents and before what depends on all of them, as `dbt build` does."""
        for unique_id, node in self.tests.items():
            if self.part.has_test(node) and self.only in (None, f"{node['place']}.{node['task_id']}"):
                self._add_test(node)

    def _add_test(self, node: dict[str, Any]) -> None:
        parents = node["parents"]
        with self._group_of(parents[0]) if "." in node["place"] else self._layer(node["place"]):
            task = self._run(node, DbtTest, node["task_id"], task_display_name=node["title"])
        self.test_task[node["unique_id"]] = task
        for neighbour in (parent for parent in parents if parent in self.last_task):
            self.last_task[neighbour] >> task
        for blocked in node["blocks"]:
            if blocked in self.first_task:
                task >> self.first_task[blocked]
            else:
                self.blocking.setdefault(blocked, []).append(task)

    def _run(self, node: dict[str, Any], operator: type[BaseOperator], task_id: str, **arguments: Any) -> BaseOperator:
        """The task of a node, or the one that says why it can have none."""
        try:
            self._check_claim(node["unique_id"])
            if "problem" in node:
                raise ValueError(node["problem"])
            arguments |= _settings(node, NodeSettings)
        except ValueError as error:
            return refuse.override(task_id=task_id)(f"{node['file']}: {node['title']}: {error}").operator
        told = {"dbt_unique_id": node["unique_id"]} | {key: node[key] for key in ("asset", "may_warn") if key in node}
        arguments |= {"doc_md": node.get("description"), "extra_context": told} | self._outlets(node.get("asset"))
        return operator(**ARGUMENTS | arguments, task_id=task_id)

    def _outlets(self, asset: list[str] | None) -> dict[str, Any]:
        """What Airflow shows of a task's asset. A task's own process adds it when it has changed (`tell_updated`)."""
        return {"outlets": [warehouse_asset(*asset)]} if asset and self.only is None else {}

    @property
    def marts(self) -> list[str]:
        """Ids of the tasks that build models of the layer `marts`, or all models where there is none."""
        models = [node for key, node in self.nodes.items() if node["resource_type"] == "model" and key in self.part]
        marts = [node for node in models if node["folder"] == "marts"] or models
        return sorted("{}.{}.run".format(*node["place"]) for node in marts)

    def _check_claim(self, unique_id: str) -> None:
        if unique_id in self.part.contested:
            raise ValueError(self.part.contested[unique_id])

    def _refuse(self, unique_id: str, task_id: str, sentence: str) -> None:
        node = self.nodes[unique_id]
        task = refuse.override(task_id=task_id)(sentence, f"{node['source_name']}.{node['title']}").operator
        self.first_task[unique_id] = self.last_task[unique_id] = task

    def add_hooks(self) -> None:
        """What the project wants run once a run: before all else, and after all else whatever came of that."""
        for end in self.hooks:
            if self.only not in (None, HOOKS[end], ALL_BUILT):
                continue
            rule = TriggerRule.ALL_DONE if end == ON_RUN_END else TriggerRule.ALL_SUCCESS
            first = [task for task in self.dag.tasks if not task.upstream_list]
            last = [task for task in self.dag.tasks if not task.downstream_list]
            is_all = self.part.nodes is None and not self.part.others | self.part.left_out
            hooks = DbtHooks(end=end, tasks=self.tasks, is_all=is_all, task_id=HOOKS[end], trigger_rule=rule)
            if end == ON_RUN_END:
                # The run is what its last task is, and the hooks are green after a model that is red.
                last >> hooks
                [*last, hooks] >> EmptyOperator(task_id=ALL_BUILT, trigger_rule=TriggerRule.NONE_FAILED)
            else:
                hooks >> first

    @property
    def tasks(self) -> dict[str, str]:
        """The task of each node that this DAG has, but for tables and freshness."""
        nodes = {key: node for key, node in self.nodes.items() if node["resource_type"] in BUILT and key in self.part}
        tasks = {key: ".".join((*node["place"], BUILT[node["resource_type"]])) for key, node in nodes.items()}
        tests = {key: node for key, node in self.tests.items() if self.part.has_test(node)}
        return tasks | {key: f"{node['place']}.{node['task_id']}" for key, node in tests.items()}

    def order_across(self) -> None:
        """What is read through nodes that this DAG does not have is waited for, with its tests, as dbt does it."""
        if self.only is None:
            for unique_id, task in {**self.first_task, **self.test_task}.items():
                if missing := [parent for parent in self._parents(unique_id) if parent not in self.last_task]:
                    self._beyond(missing) >> task

    def _beyond(self, missing: list[str]) -> list[BaseOperator]:
        """The nearest tasks upstream of nodes that this DAG does not have."""
        found: list[BaseOperator] = []
        for unique_id in missing:
            found += self.blocking.get(unique_id, ())
            for parent in self._parents(unique_id):
                if parent in self.last_task:
                    found.append(self.last_task[parent])
                elif parent not in missing:
                    missing.append(parent)
        return found

    def _parents(self, unique_id: str) -> list[str]:
        test = self.tests.get(unique_id)
        return test["parents"] if test else self.nodes[unique_id].get("depends_on", {}).get("nodes", [])

    def order_extracts(self) -> None:
        """Read children before parents: what a foreign key names in an earlier snapshot exists in a later one.

        The foreign keys are the `relationships` tests between sources.
        """
        for child, parent in self.reading_order:
            if not {child, parent} <= self.reading_task.keys():
                continue
            if self.first_task[parent].task_id in self.first_task[child].get_flat_relative_ids(upstream=True):
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

    def _is_wanted(self, node: dict[str, Any]) -> bool:
        return self.only is None or self.only.startswith("{}.{}.".format(*node["place"]))

    def _layer(self, name: str, title: str = "") -> TaskGroup:
        if name not in self.groups:
            self.groups[name] = TaskGroup(name, dag=self.dag, group_display_name=title if title != name else "")
        return self.groups[name]

    def _group(self, unique_id: str) -> TaskGroup:
        """The group of a node, in that of its layer, which is open."""
        node = self.nodes[unique_id]
        title = node["title"] if node["title"] != node["place"][1] else ""
        tooltip = node.get("description", "")
        self.groups[unique_id] = TaskGroup(node["place"][1], tooltip=tooltip, group_display_name=title, dag=self.dag)
        return self.groups[unique_id]

    def _group_of(self, unique_id: str) -> TaskGroup:
        """The group of a node, or of a source table that somebody else loads."""
        node = self.nodes[unique_id]
        if unique_id not in self.groups:
            with self._layer(node["place"][0], node["folder"]):
                self._group(unique_id)
        return self.groups[unique_id]


def _settings(node: dict[str, Any], kind: type[TableSettings]) -> dict[str, Any]:
    """What a node says of its own task, with its owner.

    Raises:
        ValueError: something that cannot be said; one sentence.
    """
    owner = {"owner": node["owner"]} if "owner" in node else {}
    return owner | (read_settings(node["settings"], kind) if "settings" in node else {})
