"""Projects made at random of what dbt allows: each renders, a task for each node, and ids stay when something is added.

One in each run; PROJECTS=300 makes as many, from FIRST_SEED on.
"""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk import DAG

from include.dbt import graph as dbt_graph
from include.dbt import project as dbt_project
from include.sources import load_tables
from tests.projects import project, rendered, selected

SEEDS = range(
    int(os.environ.get("FIRST_SEED", 0)), int(os.environ.get("FIRST_SEED", 0)) + int(os.environ.get("PROJECTS", 1))
)

ASKED = 20
"""Nodes of a project whose selection is asked of dbt one by one; all together are asked of it once."""

NAMES = (
    "orders",
    "Orders",
    "select",
    "größe",
    "a.b",
    "a_b",
    "with-dash",
    "run",
    "horizon",
    "x" * 90,
    "marts_ready",
)
FOLDERS = (
    "",
    "staging/",
    "marts/deep/",
    "finance reports/",
    "shop/",
    "snapshots/",
    "tests/",
    "marts_ready/",
    "orders/",
)
TABLES = ("orders", "Order Details", "order_details", "Order_Details", 'say "hi"', "horizon", "größe", "a.b", "t" * 60)
COLUMNS = ("id", "select", "Order Id", "größe", "unique", "id_20240101")


class Made:
    """A project's files, and what may be added to them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.files: dict[str, str] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.sources = [self._source(name) for name in self._some(("shop", "stripe", "staging", "seeds"))]
        names = [*self._some(NAMES), *(f"m{number}" for number in range(4))]
        for number, name in enumerate(names):
            self.add_model(name, names[:number])
        for name in self._some(("orders", "run", "clock", "unique_id", "m0")):
            read = self._some([each for each in self.models if each != "off"])[:2]
            text = " cross join ".join(f'{{{{ ref("{each}") }}}}' for each in read)
            self.files[f"tests/{self.random.choice(FOLDERS)}{name}.sql"] = f"select 1 as one from {text} where false"
        flags = {"write_json": False, "fail_fast": True, "indirect_selection": "empty", "store_failures": True}
        flags = {name: flags[name] for name in self._some(flags)}
        self.files["dbt_project.yml"] = json.dumps({"name": "elt", "profile": "elt", "flags": flags})
        self._add_package()
        self.files["seeds/numbers.csv"] = "id\n1\n"
        self.files["functions/twice.sql"] = "select x * 2"
        function = {"name": "twice", "arguments": [{"name": "x", "data_type": "int"}], "returns": {"data_type": "int"}}
        self.files["functions/twice.yml"] = yaml.safe_dump({"functions": [function]})

    def _add_package(self) -> None:
        """A package with a model, a source table and a test called like those of the project: dbt takes the project's
        for what the package's tests are of."""
        folder, source = "dbt_packages/beside", self.sources[0]
        tested = {"columns": [{"name": "id", "data_tests": ["unique", "not_null"]}]}
        table = source["tables"][0]["name"]
        lists = {"models": [{"name": "m0", **tested}], "sources": [{"name": source["name"], "schema": "beside"}]}
        lists["sources"][0]["tables"] = [{"name": table, **(tested if table.isidentifier() else {})}]
        self.files["packages.yml"] = "packages: [{local: beside}]"
        self.files[f"{folder}/dbt_project.yml"] = "{name: beside, models: {+schema: beside}}"
        self.files[f"{folder}/models/m0.sql"] = "select 1 as id"
        self.files[f"{folder}/models/all.yml"] = yaml.safe_dump(lists, allow_unicode=True)
        self.files[f"{folder}/tests/orders.sql"] = "select 1 as one from {{ ref('m0') }} where false"

    def _some(self, among: Any) -> list[Any]:
        return self.random.sample(list(among), self.random.randint(1, len(among)))

    def _columns(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "quote": not name.isalnum() or not name.isascii(), "data_tests": self._tests(name)}
            for name in self._some(COLUMNS)
        ]

    def _tests(self, column: str) -> list[Any]:
        """Of one column, with names of their own: dbt makes none of what has a space in it."""
        values = [[number, "v" * 200] for number in range(2)]
        named = [
            {"accepted_values": {"name": name, "arguments": {"values": each}}}
            for name in self._some(("amount>=0", "run", "orders", f"check-{column.replace(' ', '_')}"))
            for each in values
        ]
        return named + ([] if " " in column else self._some(["unique", "not_null"]))

    def _source(self, name: str) -> dict[str, Any]:
        tables: list[dict[str, Any]] = []
        for table in self._some(TABLES):
            tests = [{"unique": {"name": "one_of_a_kind", "arguments": {"column_name": "id"}}}]
            plain = re.fullmatch("[a-z_]+", table)
            tables.append({"name": table, "columns": self._columns() if plain else [], "data_tests": tests})
        ours = {"meta": {"extract": {"mode": "full"}}} if self.random.random() < 0.5 else {}
        return {"name": name, "schema": f"raw_{name}", "config": ours, "tables": tables}

    def add_model(self, name: str, earlier: list[str]) -> None:
        kind = self.random.choice(["view", "table", "incremental", "ephemeral", "view", "view"])
        config = {"materialized": kind, "enabled": name == "m0" or self.random.random() < 0.85}
        read = [each for each in self._some(earlier)[:3] if self.models[each]["config"]["enabled"]] if earlier else []
        tables = [(each["name"], table["name"]) for each in self.sources for table in each["tables"]]
        texts = [f'{{{{ ref("{each}") }}}}' for each in read]
        texts += [f"{{{{ source({source!r}, {table!r}) }}}}" for source, table in self._some(tables)[:2]]
        text = " " if self.random.random() < 0.1 else "select 1 as id from " + " cross join ".join(texts)
        self.files[f"models/{self.random.choice(FOLDERS)}{name}.sql"] = text
        columns = self._columns() if " " not in name else []
        self.models[name] = {"name": name, "config": config, "columns": columns}

    def written(self) -> dict[str, str]:
        lists = {"models": list(self.models.values()), "sources": self.sources}
        return self.files | {"models/all.yaml": yaml.safe_dump(lists, allow_unicode=True)}

    def grow(self) -> None:
        """Add a model, a table, and to every column that is tested a test of a name and kind that is there."""
        self.add_model("added", list(self.models))
        self.sources[0]["tables"].append({"name": "added"})
        for model in self.models.values():
            for column in model["columns"]:
                test = {"accepted_values": {"name": "orders", "arguments": {"values": ["another"]}}}
                column["data_tests"].append(test)


def told(dag: DAG) -> dict[str, str | None]:
    """dbt's unique id of each task that has one."""
    return {task.task_id: getattr(task, "extra_context", {}).get("dbt_unique_id") for task in dag.tasks}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_project_of_what_dbt_allows(seed: int, tmp_path: Path) -> None:
    made = Made(seed)
    with project(tmp_path, made.written()) as folder:
        dag = rendered()
        graph = json.loads(dbt_project.graph_path().read_text())
        manifest = json.loads(dbt_project.graph_path().with_name("manifest.json").read_text())
        before = told(dag)
        for task_id in before:
            assert re.fullmatch("[A-Za-z0-9_.-]+", task_id) and len(f"task_id={task_id}") <= 255
        nodes = {**manifest["nodes"], **manifest["functions"]}
        built = [
            key
            for key, node in nodes.items()
            if node["resource_type"] in {*dbt_graph.BUILT, "test"}
            and node["config"]["enabled"]
            and node["config"]["materialized"] != "ephemeral"
            and (node["resource_type"] != "model" or node["raw_code"].strip())
        ]
        assert sorted(filter(None, before.values())) == sorted(built)
        tables = load_tables()
        loads = {f"{spec.task_group}.load" for spec in tables.specs.values()}
        assert loads == {task_id for task_id in before if task_id.endswith(".load")}
        assert len(loads) + len(tables.problems) == sum(each["is_loaded"] for each in graph["sources"].values())
        assert sorted(selected(set(built))) == sorted(built)
        for unique_id in made.random.sample(built, min(len(built), ASKED)):
            assert selected(unique_id) == [unique_id]
        made.grow()
        for name, text in made.written().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        after = told(rendered())
        assert len(after) > len(before)
        assert {task_id: after.get(task_id) for task_id in before} == before
