"""Imports run one way: dags → include; outside of include/orchestrate nothing knows Airflow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from include.local.environment import ROOT

ROOMS = (
    "errors", "files", "retries", "connecting", "sql", "patches", "dbt", "sources", "postgres", "state", "schema",
    "extract", "load", "operate", "onboard", "orchestrate", "shop", "local", "compose", "yours",
)  # fmt: skip
"""Of `include/`, each above those that it may import."""

KNOW_AIRFLOW = ("orchestrate", "patches")
MODULES = sorted((ROOT / "include").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """What a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(name: str) -> str:
    """The room of `include.postgres.sessions`, or of a path below include/."""
    return name.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    names = imported(path)
    packages = {name.split(".")[0] for name in names}
    assert not packages & {"dags", "plugins", "tests"}
    own = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if own == "__init__":
        return
    for name in sorted(name for name in names if name.startswith("include.")):
        assert ROOMS.index(room(name)) <= ROOMS.index(own), f"{own} lies below {name}"
    if own not in KNOW_AIRFLOW:
        assert not packages & {"airflow", "cosmos"}, "only orchestrate/ knows Airflow; take a connection instead"


def test_the_container_commands_need_no_package() -> None:
    """`make env build up etl` on a machine with Docker and Python alone."""
    command = [sys.executable, "-S", "-c", "import include.compose.__main__"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
