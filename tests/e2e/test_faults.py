"""Something is broken, the page names it and what to do, a person does just that, and all is well again."""

from __future__ import annotations

import html
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

import psycopg
import pytest

from include.compose.airflow_api import DIRECTLY, Airflow
from tests.conftest import Checkout
from tests.e2e.conftest import end_of_runs, served, spoil_orders

DAG_ID = "elt_pipeline"
VARIABLE = "watermark__shop__customers"


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


@pytest.fixture(scope="module")
def person(with_one_test: Checkout) -> Iterator[Person]:
    """In front of a pipeline that has run, and been compared with its source."""
    with_one_test.run("shop")
    with served(with_one_test) as airflow:
        made = Person(airflow, with_one_test)
        airflow._wait_for(DAG_ID)
        for dag_id in (DAG_ID, "reconcile"):  # switched on, each makes the run that its schedule was due for
            airflow.call("PATCH", f"/dags/{dag_id}", {"is_paused": False})
            end_of_runs(airflow, dag_id)
        made.waits_for()
        made.finds_all_well()
        yield made


def test_four_tables_that_cannot_be_read_each_for_a_reason_of_its_own(person: Person) -> None:
    person.airflow.call("PATCH", f"/variables/{VARIABLE}", {"key": VARIABLE, "value": "2999-01-01T00:00:00+00:00"})
    person.administers("shop", "revoke select on orders from shop_reader")
    person.administers("shop", "alter table order_items alter created_at type date")
    person.administers("warehouse", "alter table raw_shop.products owner to postgres")
    person.triggers()
    sentence, found = person.reads()
    assert sentence == "4 things need you: 4 failed.", found
    customers, orders, products, items = (
        found[f"table shop.{name}"] for name in ("customers", "orders", "products", "order_items")
    )
    person.types(customers.between("repair it with `", "`"))
    person.administers("shop", orders.between("run on the source: "))
    person.administers("warehouse", items.between("run in the warehouse: ", ", then clear"))
    person.administers("warehouse", products.between("run there: ", "; then clear"))
    person.clears(customers, orders, products, items)
    person.finds_all_well()


def test_a_source_that_lets_nobody_in(person: Person) -> None:
    person.administers("shop", "alter role shop_reader nologin")
    unseen = person.reads()[1]["source shop"]
    assert unseen.kind == "unseen" and "its role may not log in" in unseen.text
    person.triggers()
    failed = person.reads()[1]["source shop, all its tables (4)"]
    assert 'role "shop_reader" is not permitted to log in' in failed.text and "have the server take it" in failed.text
    person.administers("shop", "alter role shop_reader login")
    person.clears(failed)
    person.finds_all_well()


def test_a_warehouse_that_lets_nobody_in(person: Person) -> None:
    person.administers("warehouse", "alter role dbt_transformer nologin")
    sentence, found = person.reads()
    assert sentence == "1 thing needs you: 1 unseen." and "its role may not log in" in found["the warehouse"].text
    person.administers("warehouse", "alter role dbt_transformer login")
    person.finds_all_well()


def test_rows_that_contradict_each_other_in_the_source(person: Person) -> None:
    spoil_orders(person.checkout)
    person.triggers()
    sentence, found = person.reads()
    assert sentence == "1 thing needs you: 1 failed.", found
    [failed] = found.values()
    assert "failed for 3 rows: correct them in the source" in failed.text
    with person.checkout.source() as source:
        amounts = "select order_id, sum(quantity * unit_price) as amount from order_items group by order_id"
        differs = "orders.id = i.order_id and orders.amount <> i.amount"
        wrong = f"update orders set amount = i.amount from ({amounts}) i where {differs}"
        assert source.execute(wrong).rowcount == 3
    person.triggers()
    person.finds_all_well()


def test_a_gap_an_old_load_a_dag_that_is_off_and_a_wrong_parameter(person: Person) -> None:
    newest = "(select max(load_id) from _elt.load_ledger where table_name = 'orders')"
    person.administers(
        "warehouse",
        f"update _elt.load_ledger set window_start = mark - interval '1 microsecond' where load_id = {newest}",
    )
    old = "loaded_at = loaded_at - interval '5 days', started_at = started_at - interval '5 days'"
    person.administers("warehouse", f"update _elt.load_ledger set {old} where table_name = 'products'")
    person.airflow.trigger(DAG_ID, {"tables": ["shop.order"]})
    person.waits_for(DAG_ID)
    person.airflow.call("PATCH", "/dags/reconcile", {"is_paused": True})
    sentence, found = person.reads()
    assert sentence == "4 things need you: 1 failed, 1 stale, 1 gap, 1 paused.", found
    assert "did you mean shop.orders?" in found["what the run was asked for"].text
    assert found["table shop.products"].kind == "stale" and "or trigger it" in found["table shop.products"].remedy
    typed = re.findall(r"make rewind TABLE=(\S+) TO=(\S+)\.", found["table shop.orders"].remedy)[0]
    person.types("python -m include.orchestrate.commands rewind", TABLE=typed[0], TO=typed[1])
    assert found["reconcile"].remedy == "Switch it on."
    person.airflow.call("PATCH", "/dags/reconcile", {"is_paused": False})
    person.triggers()
    person.finds_all_well()


def test_a_report_that_may_not_read_its_marts(person: Person) -> None:
    person.administers("warehouse", "revoke select on marts.fct_sales from dbt_transformer")
    person.triggers("sales_report")
    sentence, found = person.reads()
    assert sentence == "1 thing needs you: 1 failed.", found
    assert found["sales_report"].text == "permission denied for table fct_sales"
    person.administers("warehouse", "grant select on marts.fct_sales to dbt_transformer")
    person.clears(found["sales_report"])
    person.finds_all_well()


def test_a_backfill_of_a_dag_that_is_off(person: Person) -> None:
    person.airflow.call("PATCH", f"/dags/{DAG_ID}", {"is_paused": True})
    person.types(f"airflow backfill create --dag-id {DAG_ID} --from-date 2026-01-01 --to-date 2026-01-01")
    sentence, found = person.reads()
    assert sentence == "1 thing needs you: 1 paused." and "1 run waits for that" in found[DAG_ID].text
    assert found[DAG_ID].remedy == "Switch it on."
    person.airflow.call("PATCH", f"/dags/{DAG_ID}", {"is_paused": False})
    person.waits_for(DAG_ID)
    person.finds_all_well()
