"""Something is broken, the page names it and what to do, a person does just that, and all is well again."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.conftest import Checkout
from tests.e2e.conftest import end_of_runs, served, spoil_orders
from tests.e2e.person import DAG_ID, Person

VARIABLE = "watermark__shop__customers"


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
    customers, orders, products, items = person.reads_that_every_table_failed()
    person.types(customers.between("repair it with `", "`"))
    person.administers("shop", orders.between("run on the source: "))
    person.administers("warehouse", items.between("run in the warehouse: ", ", then clear"))
    person.administers("warehouse", products.between("run there: ", "; then clear"))
    person.clears(customers, orders, products, items)
    person.finds_all_well()


def test_four_tables_whose_rows_or_place_are_not_what_they_were(person: Person) -> None:
    person.administers("shop", "alter table customers rename to clients")
    person.administers("shop", "alter table orders alter updated_at drop not null, disable trigger stamp_updated_at")
    person.administers("shop", "update orders set updated_at = null where id = 5")
    person.administers("shop", "alter table orders enable trigger stamp_updated_at")
    person.administers("shop", "alter table order_items drop constraint order_items_pkey")
    twins = "jsonb_populate_record(i, jsonb_build_object('id', 2000000, 'unit_price', 0, 'updated_at', now()))"
    one = "order_items i cross join generate_series(1, 2) where i.id = 1"
    person.administers("shop", f"insert into order_items select ({twins}).* from {one}")
    person.administers("shop", "alter table products enable row level security")
    person.triggers()
    customers, orders, products, items = person.reads_that_every_table_failed()
    assert '"public"."customers" does not exist' in customers.text and "create it, or correct" in customers.text
    person.administers("shop", "alter table clients rename to customers")
    assert "NULL in cursor 'updated_at' would never be read; fill them" in orders.text
    person.administers("shop", "update orders set updated_at = now() where updated_at is null")
    assert "several rows have (2000000)" in items.text and "leave one of those rows in the source" in items.text
    one = "select min(ctid) from order_items where id = 2000000"
    person.administers("shop", f"delete from order_items where ctid = ({one})")
    person.administers("shop", "alter table order_items add primary key (id)")
    person.administers("shop", products.between("run on the source: "))
    person.clears(customers, orders, products, items)
    person.finds_all_well()


def test_what_somebody_added_to_raw(person: Person) -> None:
    person.administers("warehouse", "alter table raw_shop.products add note text not null default ''")
    person.administers("warehouse", "alter table raw_shop.products alter note drop default")
    one = "jsonb_populate_record(p, jsonb_build_object('id', 1000000, 'updated_at', now()))"
    person.administers("shop", f"insert into products select ({one}).* from products p where id = 1")
    person.administers("warehouse", "alter table raw_shop.orders add constraint early check (id < 0) not valid")
    person.administers("shop", "update orders set updated_at = now() where id = 3")
    twice = "((id > 0)) where id in (7, 8) and updated_at > '2026-11-01'"
    person.administers("warehouse", f'create unique index "One" on raw_shop.order_items {twice}')
    person.administers("shop", "update order_items set updated_at = now() where id in (7, 8)")
    person.administers("warehouse", "create schema bi; create view bi.people as select name from raw_shop.customers")
    person.administers("shop", "alter table customers alter name type varchar(300)")
    person.triggers()
    customers, orders, products, items = person.reads_that_every_table_failed()
    for failed in (orders, products):
        person.administers("warehouse", failed.between("run in the warehouse: ", ", then clear this task"))
    person.administers("warehouse", items.between("(or: ", ")"))
    assert "keep the text of others first (pg_get_viewdef)" in customers.text
    person.administers("warehouse", customers.between("run in the warehouse: ", ", then clear this task"))
    person.clears(customers, orders, products, items)
    person.finds_all_well()


def test_a_mart_whose_table_is_not_what_its_model_says(person: Person) -> None:
    person.administers("warehouse", "alter table marts.fct_sales drop column line_amount")
    person.triggers()
    sentence, found = person.reads()
    assert sentence == "1 thing needs you: 1 failed.", found
    assert "trigger the DAG with full_refresh and this model in dbt_select" in found["fct_sales"].text
    person.airflow.trigger(DAG_ID, {"full_refresh": True, "dbt_select": "fct_sales"})
    person.waits_for(DAG_ID)
    person.finds_all_well()


def test_a_source_that_takes_no_more_connections(person: Person) -> None:
    person.administers("shop", "alter role shop_reader connection limit 0")
    person.airflow.trigger(DAG_ID)
    waits = person.waits_to_read("source shop, all its tables (4)")
    assert waits.kind == "tries again" and "too many connections for role" in waits.text
    assert waits.remedy.startswith("It is tried again by itself")
    person.administers("shop", "alter role shop_reader connection limit -1")
    person.clears(waits)  # who would not wait five minutes for it
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


def test_what_runs_are_asked_for_and_cannot_do(person: Person) -> None:
    day = {"window_start": "2026-01-01", "window_end": "2026-01-02"}
    for asked, said in (
        ({"dbt_select": "tag:nothing"}, "parameter dbt_select: 'tag:nothing' selects nothing; there are"),
        ({"full_refresh": True, **day}, "ask for one of the two"),
        ({"window_start": "2026-01-02", "window_end": "2026-01-01"}, "is not after window_start"),
    ):
        person.airflow.trigger(DAG_ID, asked)
        person.waits_for(DAG_ID)
        sentence, found = person.reads()
        assert sentence == "1 thing needs you: 1 failed." and said in found["what the run was asked for"].text, found
    person.airflow.trigger(DAG_ID, {"tables": ["shop.customers"]})
    person.waits_for(DAG_ID)
    person.finds_all_well()


def test_roles_of_the_warehouse_that_lost_what_they_need(person: Person) -> None:
    person.administers("warehouse", "alter role raw_loader nologin")
    person.triggers()
    failed = person.reads_that_every_table_failed()
    said = (
        "connection 'warehouse': connection failed: .* role \"raw_loader\" is not permitted .* have the server take it"
    )
    assert all(re.match(said, each.text) for each in failed), failed
    person.administers("warehouse", "alter role raw_loader login")
    person.clears(*failed)
    person.finds_all_well()

    person.administers("warehouse", "revoke select on raw_shop.customers from dbt_transformer")
    person.administers("warehouse", "alter table marts.dim_products owner to postgres")
    person.triggers()
    sentence, found = person.reads()
    assert sentence == "2 things need you: 2 failed.", found
    assert "permission denied for table customers; grant that to dbt's role" in found["customers_snapshot"].text
    assert "must be owner of table dim_products; make dbt's role its owner" in found["dim_products"].text
    person.administers("warehouse", "grant select on raw_shop.customers to dbt_transformer")
    person.administers("warehouse", "alter table marts.dim_products owner to dbt_transformer")
    person.clears(*found.values())
    person.finds_all_well()


def test_rows_that_somebody_took_out_of_raw_and_a_transaction_that_nobody_ends(person: Person) -> None:
    forgotten = person.checkout.source()
    forgotten.execute("begin; update customers set name = name where id = 1")
    person.administers("warehouse", "delete from raw_shop.customers where id between 5 and 9")
    person.triggers("reconcile")
    differs = person.reads()[1]["reconcile, shop.customers"]
    assert re.search(r"\b5 missing +in the source, not in raw", differs.text)
    assert differs.between("repair: ", ", or") == "make reconcile TABLE=shop.customers REPAIR=1"
    person.types("python -m include.orchestrate.commands reconcile", TABLE="shop.customers", REPAIR="1")
    person.clears(differs)
    held = person.waits_to_read("source shop")
    assert held.kind == "held" and "is in a transaction that holds the watermark back" in held.text
    person.administers("shop", held.remedy.partition("end it on the source: ")[2])
    forgotten.close()
    person.finds_all_well()
