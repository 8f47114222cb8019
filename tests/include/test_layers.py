"""Imports run one way: dags → include; below the task wrappers nothing knows Airflow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from include.local.environment import ROOT

KNOW_AIRFLOW = {
    "assets.py",
    "tasks.py",
    "parameters.py",
    "rendering.py",
    "dbt_tasks.py",
    "maintenance.py",
    "commands.py",
    "health_page.py",
    "health_runs.py",
    "health_servers.py",
    "failing.py",
    "alerts.py",
}
MODULES = sorted((ROOT / "include").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level packages a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    assert not imported(path) & {"dags", "plugins", "tests"}
    if path.name not in KNOW_AIRFLOW:
        assert not imported(path) & {"airflow", "cosmos"}, "only the wrappers know Airflow; take a connection instead"


def test_the_container_commands_need_no_package() -> None:
    """`make env build up etl` on a machine with Docker and Python alone."""
    command = [sys.executable, "-S", "-c", "import include.compose.__main__"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
