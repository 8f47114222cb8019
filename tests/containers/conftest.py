"""The Compose stack of this checkout, brought up once for all tests of this folder and removed with its volumes.

Without a Docker engine these tests fail: `make test-containers` promises to have looked.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from include.compose.airflow_api import Airflow
from include.local.dotenv import complete_env_file, parse_env_file
from include.local.environment import ROOT

DAG_ID = "elt_pipeline"
PATIENCE_SECONDS = 600
CANARY_EMAIL = "canary.7f3a91@example.com"

ROLES = {
    "shop_app": ("source-db", "shop"),
    "shop_reader": ("source-db", "shop"),
    "raw_loader": ("warehouse-db", "warehouse"),
    "dbt_transformer": ("warehouse-db", "warehouse"),
    "bi_reader": ("warehouse-db", "warehouse"),
    "warehouse_admin": ("warehouse-db", "warehouse"),
    "elt_watcher": ("warehouse-db", "warehouse"),
}
"""The service and the database that each role works in."""


@dataclass(frozen=True)
class Stack:
    """The running services, reached as a person would: through `docker compose` and the published port."""

    command: list[str]
    settings: dict[str, str]

    @property
    def airflow(self) -> Airflow:
        return Airflow(f"http://127.0.0.1:{self.settings['UI_PORT']}", "admin", self.settings["UI_PASSWORD"])

    def page(self, path: str) -> str:
        """A page of the UI's server, as the admin sees it."""
        login = {"username": "admin", "password": self.settings["UI_PASSWORD"]}
        headers = {"Content-Type": "application/json"}
        ask = urllib.request.Request(f"{self.airflow.url}/auth/token", json.dumps(login).encode(), headers)
        with urllib.request.urlopen(ask, timeout=60) as answer:
            headers["Authorization"] = f"Bearer {json.load(answer)['access_token']}"
        with urllib.request.urlopen(urllib.request.Request(self.airflow.url + path, headers=headers)) as answer:
            return answer.read().decode()

    def compose(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Output of `docker compose …` on this project."""
        done = subprocess.run([*self.command, *arguments], input=stdin, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0 or not check, f"{arguments}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout + ("" if check else done.stderr)

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """`docker inspect` of the containers of the services, or of all."""
        ids = self.compose("--profile", "celery", "ps", "--all", "--quiet", *services).split()
        return json.loads(subprocess.check_output(["docker", "inspect", *ids]))

    def psql(self, role: str, statement: str) -> str:
        """The answer to a statement, as `role`; where it is refused, psql's message with its SQLSTATE."""
        service, database = ROLES[role]
        command = ["psql", "--host", service, "--username", role, "--dbname", database, "--set", "VERBOSITY=verbose"]
        command += ["--no-psqlrc", "--no-align", "--tuples-only", "--quiet", "--set", "ON_ERROR_STOP=1"]
        # By its name the server is reached over the network, where it asks for the password.
        script = ["sh", "-c", 'read -r PGPASSWORD; export PGPASSWORD; exec "$@"', "sh", *command]
        password = self.settings[f"{role.upper()}_PASSWORD"]
        return self.compose("exec", "-T", service, *script, stdin=f"{password}\n{statement}", check=False).strip()

    @contextmanager
    def locked(self, table: str) -> Iterator[None]:
        """Nobody writes to the warehouse table meanwhile; loads wait in the middle of their transaction."""
        holder = subprocess.Popen(
            [*self.command, "exec", "-T", "warehouse-db", "psql", "--quiet", "--username", "postgres", "warehouse"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert holder.stdin and holder.stdout
        holder.stdin.write(f"begin; lock table {table} in share mode; \\echo held\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "held\n"
        try:
            yield
        finally:
            holder.stdin.close()
            holder.wait(timeout=30)

    def wait_for_blocked_load(self, table: str) -> None:
        """Until a load stands in front of the lock on the table."""
        waiting = (
            "select count(*) from pg_locks join pg_stat_activity using (pid) "
            f"where not granted and relation = '{table}'::regclass and usename = 'raw_loader'"
        )
        until(lambda: self.psql("warehouse_admin", waiting) not in ("", "0"), f"a load to wait for {table}")

    def finish(self, run_id: str) -> dict[str, dict[str, Any]]:
        """The tasks of a run by id, once it has ended well."""
        until(lambda: self.airflow.state(DAG_ID, run_id) in ("success", "failed"), f"the end of {run_id}")
        tasks = {task["task_id"]: task for task in self.airflow.tasks(DAG_ID, run_id)}
        bad = {name: task["state"] for name, task in tasks.items() if task["state"] != "success"}
        assert len(tasks) > 50 and not bad, f"{run_id}: {bad}"
        return tasks

    def facts(self, role: str) -> list[str]:
        """Every sale, as the shop's owner finds it in the source and everybody else in the marts."""
        return self.psql(role, SALES_IN_SOURCE if role == "shop_app" else SALES_IN_MARTS).splitlines()

    def assert_marts_equal_source(self) -> None:
        """Facts and customers, row by row, computed from the source by a query of its own."""
        assert self.facts("bi_reader") == self.facts("shop_app")
        current = "select customer_id, md5(customer_name), email from marts.dim_customers where is_current order by 1"
        source = "select id, md5(name), email from public.customers order by 1"
        assert self.psql("bi_reader", current) == self.psql("shop_app", source)


SALES_IN_SOURCE = """
    select i.id, i.order_id, o.customer_id, i.product_id, o.status, (i.quantity * i.unit_price)::numeric(14, 2)
    from public.order_items i join public.orders o on o.id = i.order_id order by 1
"""
SALES_IN_MARTS = """
    select s.order_item_id, s.order_id, c.customer_id, s.product_key, s.order_status, s.line_amount
    from marts.fct_sales s join marts.dim_customers c using (customer_key) order by 1
"""


def until(is_so: Callable[[], bool], what: str) -> None:
    """Wait for an event that only asking can tell; fails with its name when patience ends."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < end, f"waited {PATIENCE_SECONDS} seconds for {what}"
        time.sleep(1)


@pytest.fixture(scope="session")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `.env` as `make env` writes it, for a small shop and a port of its own."""
    path = tmp_path_factory.mktemp("stack") / ".env"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        image = os.environ.get("TEST_IMAGE") or "elt-test"
        path.write_text(f"UI_PORT={probe.getsockname()[1]}\nROWS=2000\nSEED=7\nIMAGE={image}\n")
    complete_env_file(path, ROOT / ".env.example")
    for name in parse_env_file(path):
        os.environ.pop(name, None)  # Compose would prefer the shell's
    return path


@pytest.fixture(scope="session")
def docker_compose_command(env_file: Path) -> str:
    return f"docker compose --env-file {env_file}"


@pytest.fixture(scope="session")
def docker_compose_file() -> list[str]:
    return [str(ROOT / "docker-compose.yml"), str(Path(__file__).with_name("compose.yml"))]


@pytest.fixture(scope="session")
def docker_compose_project_name() -> str:
    return f"elt-test-{os.getpid()}"


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    built = ["build"] if not os.environ.get("TEST_IMAGE") else []
    return [*built, "up --detach --wait"]


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    return ["--profile celery --profile tools down --volumes --remove-orphans"]


@pytest.fixture(scope="session")
def stack(
    docker_services: Any,
    docker_compose_command: str,
    docker_compose_file: list[str],
    docker_compose_project_name: str,
    env_file: Path,
) -> Stack:
    files = [part for file in docker_compose_file for part in ("--file", file)]
    command = [*docker_compose_command.split(), *files, "--project-name", docker_compose_project_name]
    return Stack(command, parse_env_file(env_file))


@dataclass(frozen=True)
class FirstRun:
    """A run that ended well: what the source held when it began, and what the marts held at its end."""

    run_id: str
    source: list[str]
    marts: list[str]


@pytest.fixture(scope="session")
def first_run(stack: Stack) -> FirstRun:
    """The shop with the canary in it, and a run triggered through the REST API.

    The shop changes behind the run's back, for the daily run that follows at once.
    """
    assert "shop created: 200 customers" in stack.compose("run", "--rm", "--no-TTY", "shop")
    stack.psql("shop_app", f"update public.customers set email = '{CANARY_EMAIL}', name = 'Canary' where id = 7")
    source = stack.facts("shop_app")
    run_id = stack.airflow.trigger(DAG_ID)

    def is_extracted() -> bool:
        tasks = [task for task in stack.airflow.tasks(DAG_ID, run_id) if task["task_id"].endswith(".extract")]
        return {task["state"] for task in tasks} == {"success"}

    until(is_extracted, "the tables to be extracted")
    assert "shop changed" in stack.compose("run", "--rm", "--no-TTY", "shop")
    stack.finish(run_id)
    return FirstRun(run_id, source, stack.facts("bi_reader"))
