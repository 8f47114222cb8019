"""Each role does its own work, and anything else is refused with 42501 (insufficient privilege)."""

from __future__ import annotations

import pytest

from tests.containers.conftest import ROLES, FirstRun, Stack

KEPT_FAILURES = """
    select count(*) from pg_class
    where relnamespace = 'dbt_test_failures'::regnamespace and has_table_privilege(oid, 'select')
"""

ALLOWED = {
    "shop_reader": ["select count(*) from public.orders", "select count(*) from pg_stat_activity"],
    "raw_loader": ["select count(*) from raw_shop.orders", "select count(*) from _elt.load_ledger"],
    "dbt_transformer": ["select count(*) from raw_shop.orders", "select count(*) from marts.fct_sales"],
    "bi_reader": ["select count(*) from marts.fct_sales", "select count(*) from marts.dim_customers"],
    "elt_watcher": ["select count(*) from _elt.load_ledger", KEPT_FAILURES],
}

FORBIDDEN = {
    "shop_reader": [
        "set default_transaction_read_only = off; insert into public.orders default values",
        "set default_transaction_read_only = off; update public.orders set amount = 0",
        "set default_transaction_read_only = off; delete from public.customers",
        "set default_transaction_read_only = off; truncate public.orders",
        "set default_transaction_read_only = off; create table public.mine ()",
        "set default_transaction_read_only = off; create schema mine",
        "set default_transaction_read_only = off; create role mine",
        "set role shop_app",
        "copy public.orders to program 'cat'",
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'postgres'",
        "select pg_read_file('/etc/passwd')",
    ],
    "raw_loader": [
        "select * from marts.fct_sales",
        "insert into marts.dim_dates select * from marts.dim_dates",
        "create table marts.mine ()",
        "drop view staging.stg_shop__orders",
        "create table public.mine ()",
        "create role mine",
        "set role dbt_transformer",
        "set role warehouse_admin",
        "copy raw_shop.orders to '/tmp/orders'",
    ],
    "dbt_transformer": [
        "insert into raw_shop.orders select * from raw_shop.orders",
        "update raw_shop.orders set amount = 0",
        "delete from raw_shop.orders",
        "truncate raw_shop.orders",
        "drop table raw_shop.orders",
        "update _elt.load_ledger set mark = now()",
        "create table raw_shop.mine ()",
        "create table public.mine ()",
        "create role mine",
        "set role raw_loader",
    ],
    "bi_reader": [
        "select * from raw_shop.customers",
        "select * from staging.stg_shop__customers",
        "select * from intermediate.int_orders_enriched",
        "select * from snapshots.customers_snapshot",
        "select * from _elt.load_ledger",
        "update marts.fct_sales set line_amount = 0",
        "delete from marts.dim_customers",
        "truncate marts.fct_sales",
        "create table marts.mine ()",
        "create table public.mine ()",
        "create schema mine",
        "create temporary table mine ()",
        "set role dbt_transformer",
    ],
    "elt_watcher": [
        "select * from raw_shop.customers",
        "select * from staging.stg_shop__customers",
        "select * from marts.dim_customers",
        "set default_transaction_read_only = off; update _elt.load_ledger set mark = now()",
        "set default_transaction_read_only = off; create table _elt.mine ()",
        "set default_transaction_read_only = off; create schema mine",
        "set role raw_loader",
    ],
}


@pytest.mark.parametrize("role", ALLOWED)
def test_what_a_role_is_for_works(stack: Stack, first_run: FirstRun, role: str) -> None:
    for statement in ALLOWED[role]:
        assert int(stack.psql(role, statement)) > 0, statement


@pytest.mark.parametrize("role", FORBIDDEN)
def test_anything_else_is_refused(stack: Stack, first_run: FirstRun, role: str) -> None:
    for statement in FORBIDDEN[role]:
        assert "42501" in stack.psql(role, statement), f"{role}: {statement}: {stack.psql(role, statement)}"


@pytest.mark.parametrize("role", ROLES)
def test_a_wrong_password_opens_nothing(stack: Stack, role: str) -> None:
    wrong = Stack(stack.command, stack.settings | {f"{role.upper()}_PASSWORD": "wrong"})
    assert "password authentication failed" in wrong.psql(role, "select 1")


def test_roles_of_one_database_are_strangers_in_the_other(stack: Stack) -> None:
    for role, service in (("raw_loader", "source-db"), ("shop_reader", "warehouse-db")):
        command = ["exec", "-T", service, "psql", "--username", "postgres", "--dbname", "postgres", "-Atc"]
        assert stack.compose(*command, f"select count(*) from pg_roles where rolname = '{role}'") == "0\n"
