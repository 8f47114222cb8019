"""`AIRFLOW_CONN_SHOP` and `AIRFLOW_CONN_WAREHOUSE` of the user's own are used instead of the embedded server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from urllib.parse import urlsplit

import psycopg
import pytest

from include.shop.generate import create_shop
from tests.conftest import Checkout, Postgres


@pytest.fixture
def own(postgres: Postgres) -> dict[str, str]:
    """Two databases of a user's own server, one as URI, one as Airflow's JSON; one role does everything."""
    shop, warehouse = postgres.database("my_shop"), postgres.database("my_warehouse")
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute("drop role if exists me")
        connection.execute("create role me login superuser password 'p@ss/word'")
    with psycopg.connect(shop) as connection:
        create_shop(connection, 2000, 1, datetime.now(UTC))
    as_json = {"conn_type": "postgres", "host": "127.0.0.1", "port": postgres.server.port, "login": "me"}
    as_json |= {"password": "p@ss/word", "schema": urlsplit(warehouse).path[1:]}
    return {
        "AIRFLOW_CONN_SHOP": f"postgresql://me:p%40ss%2Fword@127.0.0.1:{postgres.server.port}/my_shop",
        "AIRFLOW_CONN_WAREHOUSE": json.dumps(as_json),
    }


def test_they_are_used_and_the_source_is_not_written(
    checkout: Checkout, postgres: Postgres, own: dict[str, str]
) -> None:
    done = checkout.run("run", **own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "shop c" not in done.stdout, "a source of the user's own must not be written"
    with psycopg.connect(postgres.server.superuser_dsn("my_warehouse")) as warehouse:
        assert warehouse.execute("select count(distinct order_id) from marts.fct_sales").fetchone() == (2000,)
    assert checkout.run("dsn-source", **own).stdout.strip() == own["AIRFLOW_CONN_SHOP"]
