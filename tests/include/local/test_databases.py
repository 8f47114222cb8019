"""A source of the user's own is looked at before the pipeline starts."""

from __future__ import annotations

import psycopg
import pytest

from include.local.databases import require_tables
from include.local.errors import LocalError
from tests.conftest import Postgres


def test_a_missing_table_is_one_sentence(postgres: Postgres) -> None:
    with psycopg.connect(postgres.database()) as connection:
        connection.execute("create table customers (); create table products (); create table orders ()")
        connection.commit()
        uri = postgres.server.superuser_dsn(connection.info.dbname)
        with pytest.raises(LocalError, match=r"of AIRFLOW_CONN_SHOP has no table public\.order_items: .* unset"):
            require_tables(uri, "shop")
        connection.execute("create view order_items as select")
        connection.commit()
        require_tables(uri, "shop")
