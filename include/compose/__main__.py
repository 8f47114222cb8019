"""The commands behind the Makefile's container targets: `python -m include.compose <command>`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from include.compose.airflow_api import Airflow
from include.local.dotenv import complete_env_file, parse_env_file
from include.local.errors import LocalError
from include.local.progress import ENDED, Console, Task
from include.local.sample import SAMPLE

ROOT = Path(__file__).resolve().parent.parent.parent
DAG_ID = "elt_pipeline"


def main() -> int:
    """Run one command; foreseeable trouble is one sentence on stderr and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m include.compose")
    parser.add_argument("command", choices=sorted(COMMANDS))
    command = parser.parse_args().command
    try:
        return COMMANDS[command]()
    except LocalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    except KeyboardInterrupt:
        print("\nNot watched any more; the run goes on, see the UI.", file=sys.stderr)
        return 130


def env() -> int:
    """Make the secrets that `.env` lacks, and show the UI's password that once."""
    made = complete_env_file(ROOT / ".env", ROOT / ".env.example")
    print(f".env: {len(made)} secrets made, the rest left as it was; readable by you alone")
    if "UI_PASSWORD" in made:
        print(f"The UI's user is admin, the password {settings()['UI_PASSWORD']} (shown this once; it is in .env)")
    return 0


def schemas() -> int:
    """Have the warehouse's administrator make the schemas that the project in the image writes to."""
    if "AIRFLOW_CONN_WAREHOUSE" in settings():
        return 0
    execute = ["docker", "compose", "exec", "--no-TTY"]
    listed = [*execute, "scheduler", "python", "-m", "include.dbt.schemas"]
    options = subprocess.run(listed, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    roles = ["--env", f"PGOPTIONS={options}", "warehouse-db", "sh", "/docker-entrypoint-initdb.d/roles.sh"]
    return subprocess.run([*execute, *roles], cwd=ROOT).returncode


def where() -> int:
    """Say where the UI is."""
    print(f"Airflow is at {url()}   user: admin   password: UI_PASSWORD in .env\nNext: make etl")
    return 0


def etl() -> int:
    """Bring the sample up to date, run the pipeline once through the REST API, show its tasks and the result."""
    if SAMPLE and SAMPLE.variable not in settings():
        subprocess.run(["docker", "compose", "run", "--rm", "--no-TTY", SAMPLE.name], cwd=ROOT, check=True)
    console, airflow = Console(), Airflow(url(), "admin", settings()["UI_PASSWORD"])
    run_id = airflow.trigger(DAG_ID)
    console.step(f"run {run_id} triggered")
    shown: dict[str, tuple[str | None, int]] = {}
    found: list[dict[str, Any]] = []
    tasks: list[Task] = []
    for found in airflow.follow(DAG_ID, run_id):
        tasks = [_task(each) for each in found]
        for task, each in zip(tasks, found, strict=True):
            now = (task.state, each["try_number"])
            if shown.get(task.name) != now and task.state in (*ENDED, "up_for_retry"):
                console.show(task, tasks)
            shown[task.name] = now
    warned = airflow.warnings(DAG_ID, run_id)
    tasks = [replace(task, warning=warned.get((task.task_id, task.map_index))) for task in tasks]
    loaded = [task for task in tasks if task.task_id.endswith(".load") and task.state == "success"]
    console.report(tasks, [SimpleNamespace(**airflow.result(DAG_ID, run_id, task.task_id)) for task in loaded])
    for task, each in zip(tasks, found, strict=True):
        if task.state == "failed":
            console.line(f"✗ {task.name}\n  {airflow.error(DAG_ID, run_id, each)}\n")
    is_green = airflow.state(DAG_ID, run_id) == "success"
    if is_green:
        console.what_next('docker compose run --rm psql -c "{}"', _models(airflow))
    console.line(f"The graph:   {url()}/dags/{DAG_ID}/runs/{run_id}")
    return 0 if is_green else 1


def _models(airflow: Airflow) -> list[tuple[bool, str]]:
    """Whether each model is in the layer `marts`, and its relation: the asset of its task."""
    assets = airflow.call("GET", f"/assets?dag_ids={DAG_ID}&limit=1000")["assets"]
    made = [(task["task_id"], asset["name"]) for asset in assets for task in asset["producing_tasks"]]
    return [(task_id.startswith("marts."), name) for task_id, name in made if task_id.endswith(".run")]


def settings() -> dict[str, str]:
    """`.env`, with the variables of the shell over it."""
    path = ROOT / ".env"
    if not path.exists():
        raise LocalError(".env is missing; make it with `make env`")
    return parse_env_file(path) | {key: value for key, value in os.environ.items() if value}


def url() -> str:
    return f"http://127.0.0.1:{settings().get('UI_PORT', '8080')}"


def _task(found: dict[str, Any]) -> Task:
    return Task(found["task_id"], found["operator_name"], found["state"], found["duration"] or 0.0, found["map_index"])


COMMANDS = {"env": env, "schemas": schemas, "where": where, "etl": etl}

if __name__ == "__main__":
    sys.exit(main())
