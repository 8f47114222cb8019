"""What becomes of projects that are not like the sample: every name, kind and source that dbt accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

from include.dbt import graph as dbt_graph
from include.dbt import project as dbt_project
from include.orchestrate.dbt_tasks import DbtFunction, DbtTest
from include.sources import load_tables, tables_of
from tests.projects import project, rendered

LONG = ", ".join(f"'{'v' * 20}{number}'" for number in range(12))

FILES = {
    "models/sources.yaml": """
sources:
  - name: shop
    schema: raw_shop
    config: {meta: {extract: {key: id, mode: full}}}
    tables:
      - name: orders
        columns:
          - {name: id, data_tests: [unique, not_null]}
          - {name: Total, quote: true, data_tests: [not_null]}
      - name: Order Details
        config: {meta: {cosmos: {operator_kwargs: {pool: narrow, retries: 7, execution_timeout: 10 minutes}}}}
        data_tests:
          - relationships:
              name: details_order_exists
              arguments: {column_name: a, to: "source('shop', 'orders')", field: id}
      - {name: broken, config: {meta: {extract: {key: id, curser: at}}}}
      - {name: horizon}
      - {name: poolless, config: {meta: {cosmos: {operator_kwargs: {poool: a}}}}}
      - {name: leftover, config: {meta: {extract: null}}}
  - name: stripe
    schema: "{{ env_var('FIVETRAN_SCHEMA', 'fivetran_stripe') }}"
    tables:
      - name: charges
        columns: [{name: id, data_tests: [unique]}]
  - {name: gone, config: {enabled: false}, tables: [{name: a}]}
""",
    "models/models.yml": f"""
groups: [{{name: finance, owner: {{name: Finance, email: f@example.com}}}}]
models:
  - {{name: disabled, config: {{enabled: false}}, columns: [{{name: id, data_tests: [unique]}}]}}
  - name: ephemeral
    config: {{materialized: ephemeral}}
    columns: [{{name: id, data_tests: [unique]}}]
  - name: a
    config:
      group: finance
      meta:
        cosmos:
          operator_kwargs: {{pool: wide, priority_weight: 3, retry_delay: 90, trigger_rule: all_success}}
    data_tests:
      - accepted_values: {{arguments: {{column_name: id, values: [{LONG}]}}}}
    columns:
      - name: id
        data_tests:
          - unique: {{config: {{meta: {{cosmos: {{operator_kwargs: {{queue: slow}}}}}}}}}}
          - not_null
          - accepted_values: {{name: "amount>=0", arguments: {{values: [1]}}}}
          - accepted_values: {{name: "amount>=0", arguments: {{values: [2]}}}}
          - accepted_values: {{name: a, arguments: {{values: [3]}}}}
          - accepted_values: {{arguments: {{values: [4]}}}}
      - {{name: select, data_tests: [not_null]}}
  - name: silly
    config: {{meta: {{cosmos: {{operator_kwargs: {{retries: soon}}}}}}}}
""",
    "models/disabled.sql": "select 1 as id",
    "models/ephemeral.sql": "select * from {{ source('shop', 'orders') }}",
    "models/staging/a.sql": "select * from {{ ref('ephemeral') }}",
    "models/staging/empty.sql": "  \n",
    "models/silly.sql": "select 1",
    "models/shop/orders.sql": "select * from {{ ref('a') }}",
    "models/finance reports/b.sql": "select * from {{ ref('a') }} cross join {{ ref('empty') }}",
    "models/marts_ready/c.sql": "select * from {{ source('stripe', 'charges') }}",
    "models/snapshots/d.sql": "select {{ function('twice') }}(1) as two",
    "models/staging/python.py": """
def model(dbt, session):
    dbt.config(materialized="table")
    return dbt.ref("a")
""",
    "models/staging/after_python.sql": "select * from {{ ref('python') }}",
    "tests/a.sql": "select 1 from {{ ref('a') }} where false",
    "tests/orders.sql": "select 1 from {{ ref('a') }}, {{ ref('orders') }} where false",
    "tests/run.sql": "select 1 from {{ ref('a') }} where false",
    "tests/clock.sql": "select 1 where false",
    "seeds/countries.csv": "id\n1\n",
    "functions/twice.sql": "select x * 2",
    "functions/twice.yml": (
        "functions: [{name: twice, arguments: [{name: x, data_type: int}], returns: {data_type: int}}]"
    ),
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with project(tmp_path_factory.mktemp("zoo"), FILES) as folder:
        yield folder


@pytest.fixture(scope="module")
def dag(zoo: Path) -> DAG:
    return rendered()


@pytest.fixture(scope="module")
def manifest(zoo: Path) -> dict[str, Any]:
    return json.loads(dbt_project.graph_path().with_name("manifest.json").read_text())


def sentence(dag: DAG, task_id: str) -> str:
    """What a task says that stands in the place of something that cannot work."""
    task = dag.get_task(task_id)
    assert task.task_type == "_PythonDecoratedOperator"
    with pytest.raises(AirflowFailException) as raised:
        task.python_callable(task.op_args[0])
    return str(raised.value)


def of_node(dag: DAG, unique_id: str) -> list[Any]:
    return [task for task in dag.tasks if getattr(task, "extra_context", {}).get("dbt_unique_id") == unique_id]


def test_every_id_is_one_that_airflow_and_a_log_folder_accept(dag: DAG) -> None:
    for task_id in dag.task_ids:
        assert re.fullmatch("[A-Za-z0-9_.-]+", task_id) and len(f"task_id={task_id}".encode()) <= 255


def test_tasks_and_nodes_correspond_one_to_one(dag: DAG, manifest: dict[str, Any]) -> None:
    nodes = {**manifest["nodes"], **manifest["functions"]}
    enabled = {key for key, node in nodes.items() if node["config"]["enabled"]}
    unbuilt = {"model.elt.ephemeral", "model.elt.empty"}
    refused = {"model.elt.python": "staging.python.run", "model.elt.silly": "models.silly.run"}
    made = [task.extra_context["dbt_unique_id"] for task in dag.tasks if hasattr(task, "extra_context")]
    assert sorted([*made, *refused, *unbuilt]) == sorted(enabled)
    assert set(refused.values()) <= set(dag.task_ids)
    assert not [task_id for task_id in dag.task_ids if "disabled" in task_id or "ephemeral" in task_id]


def test_a_model_beside_a_source_of_its_folders_name_and_a_folder_called_like_a_task(dag: DAG) -> None:
    assert {"shop.orders.extract", "shop.orders.load", "shop.horizon"} <= set(dag.task_ids)
    (orders,), (c,), (b,) = (of_node(dag, f"model.elt.{name}") for name in ("orders", "c", "b"))
    assert re.fullmatch("shop_x[0-9a-f]{8}.orders.run", orders.task_id)
    assert re.fullmatch("marts_ready_x[0-9a-f]{8}.c.run", c.task_id)
    assert re.fullmatch("finance_reports_x[0-9a-f]{8}.b.run", b.task_id)
    assert b.task_group.parent_group.group_display_name == "finance reports"
    (d,) = of_node(dag, "model.elt.d")
    assert re.fullmatch("snapshots_x[0-9a-f]{8}.d.run", d.task_id)
    assert {"seeds.countries.seed", "models.silly.run", "tests.clock"} <= set(dag.task_ids)


def test_a_source_table_with_a_space_is_read_like_any_other(dag: DAG) -> None:
    [spec] = [spec for spec in load_tables().specs.values() if spec.table == "Order Details"]
    read, loaded = (dag.get_task(f"{spec.task_group}.{step}") for step in ("extract", "load"))
    assert read.op_args[0] == "shop.Order Details" and read.task_id in loaded.upstream_task_ids
    assert read.task_group.group_display_name == "Order Details"
    assert f"{spec.task_group}.ended" in dag.get_task("shop.orders.extract").upstream_task_ids, "children first"


def test_a_test_has_its_own_name_and_an_id_of_its_own(dag: DAG) -> None:
    tests = {task.task_id: task.task_display_name for task in dag.tasks if isinstance(task, DbtTest)}
    assert {"staging.a.unique_id", "staging.a.not_null_id", "staging.a.not_null_select"} <= tests.keys()
    assert tests["staging.a.unique_id"] == "unique_a_id"
    assert [name for name in tests.values() if name == "amount>=0"] == ["amount>=0"] * 2
    assert len([task_id for task_id in tests if task_id.startswith("staging.a.accepted_values_id_x")]) == 1
    [long] = [task_id for task_id, name in tests.items() if name.startswith("accepted_values_a_id__vvvv")]
    assert len(long) <= 182 and len(tests[long]) > 250, "the full name is what is shown"
    named_like_the_model = {task_id for task_id, name in tests.items() if name == "a"}
    assert len(named_like_the_model) == 2 and all(
        task_id.startswith("staging.a.a_x") for task_id in named_like_the_model
    )
    assert [task_id for task_id, name in tests.items() if name == "run"][0].startswith("staging.a.run_x")
    assert [task_id for task_id in tests if task_id.startswith("shop.orders.not_null__Total__x")]


def test_what_reads_an_ephemeral_or_empty_model_waits_for_what_that_reads(dag: DAG) -> None:
    (unique,) = [task for task in dag.tasks if getattr(task, "task_display_name", "") == "unique_ephemeral_id"]
    assert unique.upstream_task_ids == {"shop.orders.load"} and unique.downstream_task_ids == {"staging.a.run"}
    assert {"shop.orders.load", "shop.orders.unique_id"} <= dag.get_task("staging.a.run").upstream_task_ids
    (b,) = of_node(dag, "model.elt.b")
    assert "staging.a.run" in b.upstream_task_ids


def test_a_function_is_created_before_what_calls_it(dag: DAG) -> None:
    task = dag.get_task("functions.twice.create")
    assert isinstance(task, DbtFunction)
    assert of_node(dag, "model.elt.d")[0].upstream_task_ids == {task.task_id}


def test_somebody_elses_source_is_tested_and_not_loaded(dag: DAG) -> None:
    assert [task_id for task_id in dag.task_ids if task_id.startswith("stripe.")] == ["stripe.charges.unique_id"]
    assert dag.get_task("stripe.charges.unique_id").downstream_task_ids == {of_node(dag, "model.elt.c")[0].task_id}
    assert not [task_id for task_id in dag.task_ids if "gone" in task_id or "leftover" in task_id]


def test_a_table_that_cannot_work_fails_alone_with_its_sentence(dag: DAG) -> None:
    assert sentence(dag, "shop.broken.extract").startswith(
        "dbt/models/sources.yaml: table shop.broken: unknown key 'curser' under `extract`; known keys are"
    )
    assert "shop.broken" in load_tables().names and "shop.broken.load" not in dag.task_ids
    assert "shop.orders.load" in dag.task_ids


def test_what_a_node_says_of_its_task_is_done(dag: DAG) -> None:
    a = dag.get_task("staging.a.run")
    assert (a.pool, a.priority_weight, a.retry_delay.total_seconds(), a.trigger_rule) == ("wide", 3, 90, "all_success")
    assert dag.get_task("staging.a.unique_id").queue == "slow"
    [spec] = [spec for spec in load_tables().specs.values() if spec.table == "Order Details"]
    for step in ("extract", "load"):
        task = dag.get_task(f"{spec.task_group}.{step}")
        assert (task.pool, task.retries, task.execution_timeout.total_seconds()) == ("narrow", 7, 600)
    assert dag.get_task("shop.orders.extract").pool == "default_pool"


def test_what_it_cannot_say_is_refused_by_name(dag: DAG) -> None:
    assert sentence(dag, "shop.poolless.extract").startswith(
        "dbt/models/sources.yaml: table shop.poolless: unknown key 'poool' under `meta.cosmos.operator_kwargs`; "
        "known keys are execution_timeout, "
    )
    assert sentence(dag, "models.silly.run").startswith(
        "dbt/models/silly.sql: silly: retries is 'soon' under `meta.cosmos.operator_kwargs`: "
    )


def test_a_groups_owner_owns_its_tasks(dag: DAG) -> None:
    assert {dag.get_task(f"staging.a.{name}").owner for name in ("run", "unique_id")} == {"Finance"}


def test_a_python_model_is_refused_in_its_place(dag: DAG) -> None:
    assert sentence(dag, "staging.python.run") == (
        "dbt/models/staging/python.py: python: PostgreSQL runs no Python model; write it as SQL, or disable it"
    )
    assert dag.get_task("staging.after_python.run").upstream_task_ids == {"staging.python.run"}


def test_ids_stay_when_something_is_added(zoo: Path, dag: DAG) -> None:
    """A second test of a column, and of the same name; a test called as one is; a model beside a table; a table."""
    before = {task.task_id: getattr(task, "extra_context", {}) for task in dag.tasks}
    added = {
        "models/models.yml": FILES["models/models.yml"].replace(
            "          - not_null\n",
            "          - not_null\n          - unique: {name: a, config: {where: id > 1}}\n"
            "          - accepted_values: {arguments: {values: [5]}}\n",
        ),
        "models/sources.yaml": FILES["models/sources.yaml"].replace(
            "      - {name: horizon}", "      - {name: a}\n      - {name: horizon}"
        ),
        "models/shop/broken.sql": "select 1",
        "models/staging/charges.sql": "select 1",
        "tests/unique_id.sql": "select 1 from {{ ref('a') }} where false",
    }
    try:
        for name, text in added.items():
            (zoo / name).write_text(text)
        after = {task.task_id: getattr(task, "extra_context", {}) for task in rendered().tasks}
    finally:
        for name in added:
            (zoo / name).write_text(FILES[name]) if name in FILES else (zoo / name).unlink()
    assert len(after) == len(before) + 7
    assert {task_id: after.get(task_id) for task_id in before} == before


def test_the_graph_is_the_same_in_whatever_order_dbt_names_things(manifest: dict[str, Any]) -> None:
    """After a partial parse it names what a node reads in another."""
    other = json.loads(json.dumps(manifest))
    for nodes in (other["nodes"], other["sources"]):
        for node in nodes.values():
            for names in (node.get("depends_on") or {}).values():
                names.reverse()
    test = next(node for node in other["nodes"].values() if len((node.get("depends_on") or {}).get("nodes", ())) > 1)
    assert test["depends_on"] != manifest["nodes"][test["unique_id"]]["depends_on"]
    assert dbt_graph.draw(other) == dbt_graph.draw(manifest)


def test_a_test_of_several_stays_with_the_same_when_one_gets_more_parents(manifest: dict[str, Any]) -> None:
    both = {"model.elt.a": "staging", "seed.elt.countries": "seeds"}
    found = json.loads(json.dumps(manifest))
    test = found["nodes"]["test.elt.run"]
    test["depends_on"]["nodes"] = list(both)
    before = dbt_graph.draw(found)["tests"]["test.elt.run"]["place"]
    for unique_id in both:
        changed = json.loads(json.dumps(found))
        changed["nodes"][unique_id].setdefault("depends_on", {})["nodes"] = list(changed["sources"])
        assert dbt_graph.draw(changed)["tests"]["test.elt.run"]["place"] == before


@pytest.mark.parametrize(
    "config, may_warn",
    [
        ({}, False),
        ({"severity": "warn"}, True),
        ({"severity": "WARN"}, True),
        ({"error_if": "> 10"}, True),
        ({"warn_if": "> 10", "error_if": "> 10"}, False),
    ],
    ids=str,
)
def test_a_test_that_can_find_rows_and_pass_is_asked_at_the_end(
    manifest: dict[str, Any], config: dict[str, str], may_warn: bool
) -> None:
    found = json.loads(json.dumps(manifest))
    found["nodes"]["test.elt.run"]["config"] |= config
    drawn = dbt_graph.draw(found)["tests"]
    assert {key for key, node in drawn.items() if node.get("may_warn")} == ({"test.elt.run"} if may_warn else set())


def test_a_package_is_a_layer_of_its_own(manifest: dict[str, Any]) -> None:
    """Its names are its own: a model, a seed, a source and a test that the project has too."""
    found = json.loads(json.dumps(manifest))
    for part, unique_id in (
        ("nodes", "model.elt.a"),
        ("nodes", "seed.elt.countries"),
        ("nodes", "test.elt.run"),
        ("sources", "source.elt.stripe.charges"),
        ("sources", "source.elt.shop.orders"),
    ):
        copy = json.loads(json.dumps(manifest[part][unique_id]))
        kind, _, name = unique_id.split(".", 2)
        copy |= {"package_name": "pkg", "unique_id": f"{kind}.pkg.{name}", "fqn": ["pkg", *copy["fqn"][1:]]}
        found[part][copy["unique_id"]] = copy
    before, drawn = dbt_graph.draw(manifest), dbt_graph.draw(found)
    for part in ("nodes", "sources", "tests"):
        for key, node in before[part].items():
            for name in ("place", "task_id"):
                assert drawn[part][key].get(name) == node.get(name), "nothing of the project's is renamed"
    assert drawn["nodes"]["model.pkg.a"]["place"] == ["pkg", "a"]
    assert drawn["nodes"]["seed.pkg.countries"]["place"][0] == "pkg"
    assert drawn["sources"]["source.pkg.stripe.charges"]["place"][0] == "pkg"
    assert drawn["tests"]["test.pkg.run"]["task_id"] != drawn["tests"]["test.elt.run"]["task_id"]
    places = [tuple(node["place"]) for node in drawn["nodes"].values()]
    assert len(set(places)) == len(places)
    tables = tables_of(dbt_graph.entries(found))
    assert "source.elt.shop.orders" in tables.specs and "a package lists it too" in (
        tables.problems["source.pkg.shop.orders"].sentence
    )


def test_a_packages_test_of_what_the_project_calls_the_same_has_a_task_of_its_own(tmp_path: Path) -> None:
    """dbt takes the project's source and model for those of the package. The flag is of a project that has it."""
    tested = "columns: [{name: id, data_tests: [unique]}]"
    lists = f"""
sources: [{{name: shop, tables: [{{name: orders, {tested}}}]}}]
models: [{{name: stg, {tested}}}]
"""
    files = {
        "dbt_project.yml": "{name: elt, profile: elt, flags: {write_json: false}}",
        "packages.yml": "packages: [{local: beside}]",
        "dbt_packages/beside/dbt_project.yml": "{name: beside, models: {+schema: beside}}",
    }
    for place in ("models", "dbt_packages/beside/models"):
        files |= {f"{place}/lists.yml": lists, f"{place}/stg.sql": "select 1 as id"}
    with project(tmp_path, files):
        ids = [task.extra_context["dbt_unique_id"] for task in rendered().tasks]
    assert sorted(key.rpartition(".")[0] for key in ids if key.startswith("test.")) == [
        "test.beside.source_unique_shop_orders_id",
        "test.beside.unique_stg_id",
        "test.elt.source_unique_shop_orders_id",
        "test.elt.unique_stg_id",
    ]
