"""Whoever looks at the page Pipeline health, and does what it says."""

from __future__ import annotations

import html
import re
import time
import urllib.request
from dataclasses import dataclass
from urllib.parse import unquote

import psycopg

from include.compose.airflow_api import DIRECTLY, Airflow
from tests.conftest import Checkout
from tests.e2e.conftest import PATIENCE_SECONDS, end_of_runs

DAG_ID = "elt_pipeline"


@dataclass(frozen=True)
class Said:
    """One thing that the page names: what, what is wrong with it, what to do, and where its task is."""

    kind: str
    about: str
    text: str
    remedy: str
    task: tuple[str, ...]

    def between(self, start: str, end: str = "") -> str:
        """What the sentence says to run."""
        return self.text.partition(start)[2].partition(end)[0] if end else self.text.partition(start)[2]


@dataclass(frozen=True)
class Person:
    """Whoever looks at the page and does what it says."""

    airflow: Airflow
    checkout: Checkout

    def reads(self) -> tuple[str, dict[str, Said]]:
        """The verdict, and what it names by what that is about."""
        self.airflow.call("GET", "/version")  # has it log in
        token = {"Authorization": f"Bearer {self.airflow._token}"}
        with DIRECTLY.open(urllib.request.Request(f"{self.airflow.url}/pipeline-health/", headers=token)) as answer:
            page = html.unescape(answer.read().decode())
        [sentence] = re.findall(r'role="status">(.*?)</p>', page)
        found = {}
        for item in re.findall(r"<li>(.*?)</li>", page, re.DOTALL):
            kind, about = re.findall(r'<span class="badge \w+">([^<]+)</span> <strong>([^<]+)</strong>', item)[0]
            text = "".join(re.findall(r'<div class="said">(.*?)</div>', item, re.DOTALL))
            remedy = "".join(re.findall(r"<div>(.*?)</div>", item, re.DOTALL))
            place = re.findall(r"/dags/([^/]+)/runs/([^/]+)/tasks/([^/\"]+)", item)
            found[about] = Said(kind, about, text, remedy, tuple(map(unquote, place[0])) if place else ())
        return sentence, found

    def reads_that_every_table_failed(self) -> list[Said]:
        """Of the shop's four, and nothing else."""
        sentence, found = self.reads()
        assert sentence == "4 things need you: 4 failed.", found
        return [found[f"table shop.{name}"] for name in ("customers", "orders", "products", "order_items")]

    def waits_to_read(self, about: str) -> Said:
        """What the page names, once it does: a transaction has to be a minute old."""
        end = time.monotonic() + PATIENCE_SECONDS
        while about not in (found := self.reads()[1]):
            assert time.monotonic() < end, found
            time.sleep(1)
        return found[about]

    def finds_all_well(self) -> None:
        sentence, found = self.reads()
        assert sentence.startswith("All is well: 4 tables, "), found

    def clears(self, *named: Said) -> None:
        """Clears the tasks of a run with Downstream, all at once, and waits for what runs again."""
        [(dag_id, run_id)] = {one.task[:2] for one in named}
        chosen = {"dag_run_id": run_id, "task_ids": [one.task[2] for one in named], "include_downstream": True}
        body = {**chosen, "dry_run": False, "only_failed": False}
        self.airflow.call("POST", f"/dags/{dag_id}/clearTaskInstances", body)
        self.waits_for(dag_id)

    def triggers(self, dag_id: str = DAG_ID) -> None:
        self.airflow.trigger(dag_id)
        self.waits_for(dag_id)

    def waits_for(self, *dag_ids: str) -> None:
        """Until these have ended, and the report that a run of the pipeline asks for."""
        for dag_id in (*dag_ids, "sales_report"):
            end_of_runs(self.airflow, dag_id)

    def types(self, command: str, **variables: str) -> None:
        port = self.airflow.url.rpartition(":")[2]
        done = self.checkout.run("exec", *command.split(), AIRFLOW__API__PORT=port, **variables)
        assert done.returncode == 0, done.stdout + done.stderr

    def administers(self, database: str, statement: str) -> None:
        """Runs a statement as the server's superuser."""
        port = int((self.checkout.here.state / "postgres.port").read_text())
        with psycopg.connect(self.checkout.here.server(port).superuser_dsn(database), autocommit=True) as connection:
            assert statement
            connection.execute(statement)
