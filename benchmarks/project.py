"""A copy of the project whose dbt project has any number of models, layered like ours, over two small tables."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from include.local.environment import ROOT

PARTS = (
    "include",
    "plugins",
    "benchmarks",
    "dbt/macros",
    "dbt/dbt_project.yml",
    "dbt/profiles.yml",
    "dbt/models/_groups.yml",
)
TABLES = ("customers", "products")

TABLE = """
  - name: {0}
    config: {{meta: {{extract: {{key: [id], cursor: updated_at}}}}}}
    columns: [{{name: id, data_tests: [unique, not_null]}}]
"""


def write_project(folder: Path, models: int) -> None:
    """Write the tree: the product's own code and DAG, and `models` models of one column with two or three tests each.

    Four of ten stage a source, three join two of those, three are marts that join two of these.
    """
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / part, folder / part)
    (folder / "dags").mkdir()
    shutil.copy(ROOT / "dags/elt_pipeline.py", folder / "dags")
    (folder / ".venv").symlink_to(ROOT / ".venv")
    for layer in ("staging/shop", "intermediate", "marts"):
        (folder / "dbt/models" / layer).mkdir(parents=True)
    sources = folder / "dbt/models/staging/shop/_sources.yml"
    tables = "".join(TABLE.format(table) for table in TABLES)
    sources.write_text(f"sources:\n- name: shop\n  schema: raw_shop\n  tables:{tables}")
    for path, query, relationship in _models(models):
        target = folder / "dbt/models" / path
        target.with_suffix(".sql").write_text(f"{query}\n")
        target.with_suffix(".yml").write_text(_entry(target.name, relationship))


def _models(number: int) -> Iterator[tuple[str, str, str | None]]:
    """Path, query, and the model that has to know its keys (a test with two parents), where there is one."""
    staged = [f"stg_shop__{TABLES[index % 2]}_{index}" for index in range(number * 4 // 10)]
    joined = [f"int_things_joined_{index}" for index in range(number * 3 // 10)]
    marts = [f"dim_things_{index}" for index in range(number - len(staged) - len(joined))]
    for index, name in enumerate(staged):
        yield f"staging/shop/{name}", f'select id from {{{{ source("shop", "{TABLES[index % 2]}") }}}}', None
    for layer, names, below in (("intermediate", joined, staged), ("marts", marts, joined)):
        for index, name in enumerate(names):
            refs = [f'{{{{ ref("{below[at % len(below)]}") }}}}' for at in (index, index + 1)]
            query = f"select a.id from {refs[0]} as a inner join {refs[1]} as b on a.id = b.id"
            yield f"{layer}/{name}", query, below[index % len(below)] if layer == "marts" else None


def _entry(name: str, relationship: str | None) -> str:
    tests = "unique, not_null"
    if relationship:
        tests += f", relationships: {{arguments: {{to: ref('{relationship}'), field: id}}}}"
    column = f"{{name: id, data_type: bigint, description: Key., data_tests: [{tests}]}}"
    return f"models:\n- name: {name}\n  columns: [{column}]\n"
