"""What would be written, tried first: in a copy that dbt parses and Airflow renders, and on the warehouse."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psycopg
from jinja2 import Environment, StrictUndefined
from psycopg import sql

from include.onboard.shape import Table
from include.postgres.sessions import Connection

Trial = Callable[[Mapping[Path, str]], str | None]
"""Says what is wrong with a project that has these files; None where nothing is."""

_HERE = Path(__file__).resolve().parents[2]
_LOADED = {"_loaded_at": "timestamptz", "_run_id": "text", "_deleted_at": "timestamptz"}


def in_a_copy(root: Path) -> Trial:
    """Parse and render a copy of the checkout, in a process of its own."""

    def trial(files: Mapping[Path, str]) -> str | None:
        with tempfile.TemporaryDirectory(prefix="elt-onboard-") as folder:
            copy = Path(folder)
            for name in ("dags", "include", "plugins"):
                shutil.copytree(_HERE / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copytree(root / "dbt", copy / "dbt", ignore=shutil.ignore_patterns("target", "logs"))
            for path, text in files.items():
                place = copy / path.relative_to(root)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text, encoding="utf-8")
            environment = {**os.environ, "PYTHONPATH": folder, "DBT_TARGET_PATH": str(copy / "target")}
            command = [sys.executable, str(copy / "dags" / "elt_pipeline.py")]
            done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
            said = (done.stderr or done.stdout).strip().splitlines()
            return None if done.returncode == 0 else (said[-1] if said else f"exit code {done.returncode}")

    return trial


def at_fault(tables: Sequence[Table], fails: Callable[[Sequence[Table]], str | None]) -> dict[str, str]:
    """Which of the tables make a trial fail, by name, each with what was said of it alone: found by halving.

    Args:
        fails: What is wrong with a project that has these tables.
    """
    said = fails(tables)
    if said is None:
        return {}
    if len(tables) == 1:
        return {tables[0].name: said}
    half = len(tables) // 2
    return at_fault(tables[:half], fails) | at_fault(tables[half:], fails)


def refused_by(warehouse: Connection, tables: Sequence[Table], models: Mapping[str, str]) -> dict[str, str]:
    """Tables whose staging model the warehouse would not run on raw's types, each with what it says.

    Args:
        models: Texts of staging models by the table's name.
    """
    refused = {}
    for table in tables:
        if table.name not in models:
            continue
        try:
            with warehouse.transaction():
                warehouse.execute("explain " + _on_raws_types(table, models[table.name]))
        except psycopg.DatabaseError as error:
            refused[table.name] = f"the warehouse refuses its staging model: {str(error).splitlines()[0]}"
    return refused


def _on_raws_types(table: Table, model: str) -> str:
    """A model's query, of a row that has the types of raw's columns."""
    types = {each.name: "text" if each.is_text else each.type for each in table.loaded} | _LOADED
    values = [sql.SQL("cast(null as {}) as {}").format(sql.SQL(types[name]), sql.Identifier(name)) for name in types]
    raw = f"(select {sql.SQL(', ').join(values).as_string()}) as raw"
    return Environment(undefined=StrictUndefined).from_string(model).render(source=lambda *_: raw)
