"""What `airflow dags test`, a run in one process, does at its start."""

from __future__ import annotations

import os
import subprocess
import sys

from include.local.environment import ROOT

START = """
import sys
sys.argv = ["airflow", "dags", "test"]
import airflow_local_settings
from airflow.sdk.api.datamodels._generated import API_VERSION
from airflow.sdk.execution_time.supervisor import InProcessTestSupervisor, in_process_api_server
client = InProcessTestSupervisor._api_client()
print(client.get("health").json(), client.headers["airflow-api-version"])
served = in_process_api_server().app.router.versioned_routers
print("versions:", *(version for version, router in served.items() if router.routes))
"""


def test_the_version_that_its_tasks_speak_is_served_and_no_other() -> None:
    variables = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"}
    done = subprocess.run([sys.executable, "-c", START], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer, served = done.stdout.splitlines()[-2:]
    version = answer.removeprefix("{'status': 'healthy'} ")
    assert served == f"versions: {version}"
