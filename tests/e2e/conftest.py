"""The command a person runs, `make run`, on an installation of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from include.compose.airflow_api import Airflow
from include.local.environment import Installation
from include.local.ui import READY
from tests.conftest import Checkout

PATIENCE_SECONDS = 600
SETTLED_ORDERS = "select id from orders where updated_at < now() - interval '1 hour' order by id limit {}"
"""Orders of the source that none of these runs has changed: a row still to be read again is not compared."""


@pytest.fixture(scope="module")
def checkout(folder: Path, request: pytest.FixtureRequest) -> Iterator[Checkout]:
    made = Checkout(Installation(folder / request.module.__name__.split(".")[-1]))
    yield made
    made.run("clean")


BY_HAND = {"AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False"}
"""No run but those that somebody asks for."""


@pytest.fixture(scope="module")
def with_one_test(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy whose dbt project has one test: a run under the scheduler has 25 tasks, of 64."""
    made = checkout.copied(tmp_path_factory.mktemp("one-test") / "checkout")
    project = made.root / "dbt/dbt_project.yml"
    one = "data_tests:\n  elt:\n    +enabled: false\n    order_amount_equals_its_items: {+enabled: true}\n"
    text = project.read_text()
    assert text.count("data_tests:\n  elt:\n") == 1
    project.write_text(text.replace("data_tests:\n  elt:\n", one))
    return made


@contextmanager
def served(checkout: Checkout, **variables: str) -> Iterator[Airflow]:
    """`make ui` on a port of its own, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_", "DBT_"))}
    environment = {**kept, "ELT_STATE": str(checkout.here.state), "UI_PORT": str(port), **variables}
    command = [sys.executable, "-m", "include.local", "ui"]
    with subprocess.Popen(
        command, cwd=checkout.root, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            assert child.stdout and any(line.startswith(READY) for line in child.stdout), "it did not start"
            yield Airflow(f"http://127.0.0.1:{port}", "admin", checkout.here.secrets()["admin"])
        finally:
            child.send_signal(signal.SIGINT)


def spoil_orders(checkout: Checkout) -> None:
    """A shop in which the amounts of three orders are not those of their items: one dbt test fails."""
    checkout.run("shop")
    with checkout.source() as source:
        items = f"select min(id) from order_items where order_id in ({SETTLED_ORDERS.format(3)}) group by order_id"
        assert source.execute(f"update order_items set quantity = quantity + 1 where id in ({items})").rowcount == 3


def end_of_runs(airflow: Airflow, dag_id: str) -> dict[str, str]:
    """The state of each run of a DAG by its id, once all have ended and no asset asks for another; the newest first."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        asked = airflow.call("GET", f"/dags/{dag_id}/assets/queuedEvents")["total_entries"]
        runs = airflow.call("GET", f"/dags/{dag_id}/dagRuns?order_by=-run_after")["dag_runs"]
        found = {run["dag_run_id"]: run["state"] for run in runs}
        if found and not asked and set(found.values()) <= {"success", "failed"}:
            return found
        assert time.monotonic() < end, found
        time.sleep(1)
