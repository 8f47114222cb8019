"""The tests that onboarding writes: of what the source vouches for and raw could still break."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from include.onboard.names import free, is_jinja, slug
from include.onboard.shape import Column, Table
from include.sources import TableSpec

Places = Mapping[tuple[str, str], tuple[str, frozenset[str]]]
"""Names of tables that foreign keys can be tested against, by place, and columns that raw has not as they are."""


def places_of(tables: Sequence[Table], specs: Sequence[TableSpec]) -> Places:
    """Of the tables that are onboarded, and of those that the project has."""
    new = {table.place: (table.name, frozenset(each.name for each in table.omitted)) for table in tables}
    own = [spec for spec in specs if spec.source == tables[0].source]
    return new | {
        (spec.schema_name, spec.identifier): (
            spec.table,
            frozenset(name for name, how in spec.columns.items() if how != "text"),
        )
        for spec in own
    }


def tests_of(
    table: Table,
    column: Column,
    parents: Places,
    names: set[str],
) -> list[dict[str, Any]]:
    """Tests that can fail: the source's own constraints hold in the source alone, at one moment.

    What makes no test: raw's own primary key; NOT NULL, for a row is as the source had it.
    """
    if is_jinja(column.name) or '"' in column.name:
        return []  # dbt renders what it is told of a test, twice, and puts quotes around a name as it is
    tests = references_of(table, column, parents, names)
    if column.labels and not any(is_jinja(label) for label in column.labels):
        whole = f"{table.source}_{table.name}_{slug(column.name)}"
        name = free([f"{whole}_is_known"], names, f"{table.name}.{column.name}")
        values = [label.replace("'", "''") for label in column.labels]
        tests.append({"kind": "accepted_values", "name": name, "arguments": {"values": values}})
    return tests


def references_of(table: Table, column: Column | None, parents: Places, names: set[str]) -> list[dict[str, Any]]:
    """Tests of the foreign keys of one column, or of those that have several."""
    tests: list[dict[str, Any]] = []
    loaded = {each.name: each for each in table.loaded}
    for key in table.foreign_keys:
        # Rows of other types, and other texts that may be equal values, cannot be compared.
        is_mine = key.columns == [column.name] if column else len(key.columns) > 1 and key.is_of_one_type
        columns = [loaded[name] for name in key.columns if name in loaded]
        parent, closed = parents.get((key.schema, key.table), ("", frozenset()))
        if not is_mine or not parent or len(columns) < len(key.columns) or closed.intersection(key.parent_columns):
            continue
        if any(map(is_jinja, key.columns + key.parent_columns)) or any(e.is_text and not e.labels for e in columns):
            continue
        field, whole = ", ".join(key.parent_quoted), "_".join((table.source, table.name, *map(slug, key.columns)))
        arguments = {"to": f"source('{table.source}', '{parent}')", "field": field}
        if not column:
            arguments |= {"column_name": f"({', '.join(each.quoted for each in columns)})", "field": f"({field})"}
        if any(each["arguments"] == arguments for each in tests):
            continue  # declared more than once
        name = free([f"{whole}_exists"], names, f"{table.name}.{'.'.join(key.columns)}.{parent}.{field}")
        tests.append({"kind": "relationships", "name": name, "arguments": arguments})
    return tests
