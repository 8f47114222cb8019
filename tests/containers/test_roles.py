"""Each role does its own work, and anything else is refused with 42501 (insufficient privilege)."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from subprocess import DEVNULL, PIPE, run

import pytest

from tests.attempts import CATALOG, REFUSED, Attempt, attempts, disagreement, own_schema
from tests.containers.conftest import ROLES, FirstRun, Stack

DATABASES = {"source-db": "shop", "warehouse-db": "warehouse"}

OF_THE_SOURCE = "elt_watcher could not statements of others server, which SECURITY.md grants"
"""The safe horizon asks there; on one server for both, as a laptop has, that cannot be told apart."""

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


FORGE = """
import os, jwt, time
from airflow.configuration import conf
secret = os.environ.get("AIRFLOW__API_AUTH__JWT_SECRET") or conf.get("api_auth", "jwt_secret", fallback="") or "none"
issued = int(time.time())
claims = {"sub": "admin", "role": "admin", "iat": issued, "nbf": issued, "exp": issued + 3600, "jti": "1"}
audience = {"aud": conf.get("api_auth", "jwt_audience", fallback="apache-airflow")}
print(jwt.encode({**claims, **audience}, secret, algorithm="HS512"))
"""
"""What an attacker makes of the secret that a service has."""


def is_admitted(stack: Stack, token: str) -> bool:
    ask = urllib.request.Request(
        f"{stack.airflow.url}/api/v2/connections", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(ask, timeout=30) as answer:
            return answer.status == 200
    except urllib.error.HTTPError as error:
        assert error.code in (401, 403), error
        return False


@pytest.mark.parametrize("service", ["api-server", "scheduler", "dag-processor", "triggerer"])
def test_the_secret_of_a_service_makes_no_administrator(stack: Stack, service: str) -> None:
    """The API server has to believe itself, and the scheduler signs the tasks' tokens: the forgery itself works."""
    token = stack.compose("exec", "-T", service, "python", "-c", FORGE).strip().splitlines()[-1]
    assert is_admitted(stack, token) == (service in ("api-server", "scheduler"))


def tried(stack: Stack, service: str, role: str, made: list[Attempt], own: str) -> list[str]:
    """The SQLSTATE of each attempt, all in one session of the role."""
    script = ["set client_min_messages = error; set default_transaction_read_only = off; set lock_timeout = '5s';"]
    for attempt in made:
        script += ["begin;", attempt.sql(own, "\\; ") + ";", "\\echo @:SQLSTATE", "rollback;"]
    command = ["exec", "-T", service, "sh", "-c", 'read -r PGPASSWORD; export PGPASSWORD; exec "$@"', "sh", "psql"]
    command += ["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--dbname", DATABASES[service]]
    command += ["--username", role, *(["--host", service] if role in ROLES else [])]
    password = stack.settings.get(f"{role.upper()}_PASSWORD", "")
    done = run([*stack.command, *command], input="\n".join([password, *script]), stdout=PIPE, stderr=DEVNULL, text=True)
    return [line.removeprefix("@") for line in done.stdout.splitlines() if line.startswith("@")]


@pytest.mark.parametrize(
    ("service", "least", "granted_elsewhere"), [("source-db", 100, []), ("warehouse-db", 300, [OF_THE_SOURCE])]
)
def test_the_matrix_of_attempts(
    stack: Stack, first_run: FirstRun, service: str, least: int, granted_elsewhere: list[str]
) -> None:
    """Every role, every object of the server, every verb: what SECURITY.md grants succeeds, and nothing else."""
    psql = ["exec", "-T", service, "psql", "--username", "postgres", "--dbname", DATABASES[service], "-Atqc"]
    there = stack.compose(*psql, "select rolname from pg_roles where rolcanlogin").split()
    roles = tuple(role for role in ROLES if role in there)
    catalog = json.loads(stack.compose(*psql, CATALOG))
    everything = list(attempts(catalog, DATABASES[service], roles))
    states = tried(stack, service, "postgres", everything, own_schema(catalog, "postgres"))
    assert len(states) == len(everything)
    valid = [attempt for attempt, state in zip(everything, states) if state == "00000"]
    assert len(valid) > least
    done = []
    for role in roles:
        states = tried(stack, service, role, valid, own_schema(catalog, role))
        assert len(states) == len(valid) and set(states) <= {"00000"} | REFUSED, role
        done += [(role, attempt) for attempt, state in zip(valid, states) if state == "00000"]
    assert disagreement(done, valid, roles) == granted_elsewhere
