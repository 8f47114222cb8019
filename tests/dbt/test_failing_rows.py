"""The rows that fail dbt's own tests are rows of the tested relation, with all their columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from jinja2 import Environment

from include.dbt.project import PROJECT_DIR
from tests.conftest import Postgres

MACROS: Any = Environment().from_string((PROJECT_DIR / "macros" / "failing_rows.sql").read_text()).module
WITH_A_CONDITION = "(select * from child where id < 100) dbt_subquery"
"""As dbt puts it for a test with `where:`."""


@pytest.fixture(scope="module")
def rows(postgres: Postgres) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
    with psycopg.connect(postgres.database()) as connection:
        connection.execute("create table parent (id int); insert into parent values (1), (2), (null)")
        connection.execute('create table child (id int, parent_id int, status text, "Odd name" int)')
        connection.execute(
            "insert into child values (1, 1, 'new', 1), (2, 3, 'lost', 1), (3, null, null, 2), (4, 2, 'lost', null),"
            " (5, 9, 'it''s', null), (200, 9, 'lost', 7)"
        )
        yield lambda query: sorted(connection.execute(query).fetchall())


def test_accepted_values(rows: Callable[[str], list[tuple[Any, ...]]]) -> None:
    query = MACROS.postgres__test_accepted_values("child", "status", ["new", "paid"])
    assert [row[0] for row in rows(query)] == [2, 4, 5, 200]
    assert rows(query)[0] == (2, 3, "lost", 1)
    numbers = MACROS.postgres__test_accepted_values(WITH_A_CONDITION, "parent_id", [1, 2, 3], quote=False)
    assert [row[0] for row in rows(numbers)] == [5]


def test_relationships(rows: Callable[[str], list[tuple[Any, ...]]]) -> None:
    query = MACROS.postgres__test_relationships("child", "parent_id", "parent", "id")
    assert rows(query) == [(2, 3, "lost", 1), (5, 9, "it's", None), (200, 9, "lost", 7)]
    query = MACROS.postgres__test_relationships(WITH_A_CONDITION, "parent_id", "parent", "id")
    assert [row[0] for row in rows(query)] == [2, 5]


def test_unique(rows: Callable[[str], list[tuple[Any, ...]]]) -> None:
    query = MACROS.postgres__test_unique("child", '"Odd name"')
    assert [row[0] for row in rows(query)] == [1, 2]
    assert [row[0] for row in rows(MACROS.postgres__test_unique(WITH_A_CONDITION, "status"))] == [2, 4]
