"""What the processes that fork tasks do at their start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from include.local.environment import ROOT

NOBODY_LISTENS = "postgresql://nobody@127.0.0.1:1/warehouse"

START = """
import sys
sys.argv = ["airflow", "scheduler"]
import airflow_local_settings
from airflow.sdk.plugins_manager import _get_plugins
from include.dbt.project import _load_manifest
assert _get_plugins.cache_info().currsize, "each task would look for plugins again"
print("manifests read:", _load_manifest.cache_info().misses)
print("warmed up again as a plugin:", _load_manifest.cache_info().hits)
"""


@pytest.mark.parametrize("connection, read", [(NOBODY_LISTENS, 1), ("{", 0)])
def test_the_scheduler_is_warm_without_a_database_and_starts_even_if_it_cannot_be(connection: str, read: int) -> None:
    variables = {"AIRFLOW_CONN_WAREHOUSE_DBT": connection, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"}
    done = subprocess.run(
        [sys.executable, "-c", START], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"manifests read: {read}" in done.stdout
    assert "as a plugin: 0" in done.stdout
    assert ("dbt is not warmed up" in done.stdout + done.stderr) == (read == 0)


def test_a_command_that_a_task_starts_sees_the_whole_graph() -> None:
    given = {"PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}", "_AIRFLOW_PARSING_CONTEXT_TASK_ID": "shop.orders.load"}
    code = "import airflow_local_settings; from airflow.sdk import get_parsing_context as c; print(c().task_id)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["None"], done.stderr
