"""A broken source entry is one sentence that names file, table and remedy, and takes no other table away."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import yaml

from include.sources import Problem, Tables, tables_of

GOOD = {"key": "id", "cursor": "updated_at"}


def entry(extract: Any = GOOD, table: str = "orders", source: str = "shop", **changes: Any) -> dict[str, Any]:
    """A source table as `include.dbt.graph.entries` hands it over."""
    made = {"unique_id": f"source.elt.{source}.{table}", "source_name": source, "name": table, "identifier": table}
    return made | {"schema": f"raw_{source}", "file": "dbt/models/_sources.yml", "extract": extract} | changes


def problem_of(tables: Tables, unique_id: str = "source.elt.shop.orders") -> str:
    """The sentence of a table that cannot be loaded, beside one that can."""
    assert "source.elt.shop.good" in tables.specs and unique_id not in tables.specs
    return tables.problems[unique_id].sentence


def test_an_entry_becomes_a_spec() -> None:
    (spec,) = tables_of([entry(GOOD | {"overlap": "2 hours"})]).specs.values()
    assert (spec.name, spec.key, spec.overlap) == ("shop.orders", ("id",), timedelta(hours=2))
    assert (spec.raw_schema, spec.watermark_key) == ("raw_shop", "watermark__shop__orders")
    assert spec.task_group == "shop.orders"


@pytest.mark.parametrize(
    ("extract", "problem", "remedy"),
    [
        ("key: [id], cursr: updated_at", "unknown key 'cursr'", "known keys are"),
        ("key: [id]", "mode 'incremental' needs cursor", "add `cursor:`, or set `mode: full`"),
        ("cursor: updated_at", "mode 'incremental' needs key", "add `key:`"),
        (
            "key: [id], cursor: u, mode: sometimes",
            "mode is 'sometimes'",
            "write one of 'incremental', 'append' or 'full'",
        ),
        ("key: [id], cursor: u, mode: append, deletes: soft", "deletes 'soft' needs", "`mode: incremental` or `full`"),
        ("mode: full, deletes: soft", "deletes 'soft' needs `key:`", "append never changes a row"),
        ("key: [id], cursor: u, overlap: soon", "overlap is 'soon'", "such as '1 minute'"),
        ("key: [id], cursor: u, overlap: 0 seconds", "overlap is '0 seconds'", "such as '1 minute'"),
        ("key: [id], cursor: u, cursor_zone: Mars", "cursor_zone 'Mars' is no time zone", "IANA name"),
        ("key: [id], cursor: u, cursor_zone: UTC", "without a time zone", "`overlap: 1 hour`"),
        ("key: [id], cursor: u, columns: {u: hash}", "cursor 'u' is read as it is", "remove it from `columns:`"),
        ("key: [id], cursor: u, columns: {id: omit}", "key 'id' cannot be omitted", "or write `hash`"),
        (
            "key: [id], cursor: u, columns: {a: drop}",
            "columns.a is 'drop'",
            "write one of 'omit', 'hash', 'unsalted_hash' or 'text'",
        ),
        ("key: [id], cursor: u, drift: stop", "drift is 'stop'", "write one of 'evolve' or 'freeze'"),
        ("key: [id], cursor: u, table: x", "unknown key 'table'", "remove it"),
        ("", "needs key and cursor", "add `key:` and `cursor:`"),
        ("1: 2", "Keys should be strings", ""),
    ],
)
def test_a_broken_entry_names_file_table_and_remedy(extract: str, problem: str, remedy: str) -> None:
    broken = entry(yaml.safe_load(f"{{{extract}}}"))
    message = problem_of(tables_of([broken, entry(table="good")]))
    assert message.startswith("dbt/models/_sources.yml: table shop.orders: ")
    assert problem in message and remedy in message and "\n" not in message


@pytest.mark.parametrize("extract", [True, "yes", [1], 3])
def test_an_extract_that_has_no_keys(extract: Any) -> None:
    message = problem_of(tables_of([entry(extract), entry(table="good")]))
    assert "`config.meta.extract` is" in message and "write `key:` and `cursor:` below it" in message


def test_a_table_that_a_package_lists_too() -> None:
    other = entry(unique_id="source.pkg.shop.orders", file="package pkg, models/more.yml")
    tables = tables_of([entry(), other])
    assert [spec.name for spec in tables.specs.values()] == ["shop.orders"] == tables.names
    assert "package pkg, models/more.yml: table shop.orders: a package lists it too; remove `extract`" in (
        tables.problems["source.pkg.shop.orders"].sentence
    )


def test_two_tables_that_would_share_a_variable() -> None:
    tables = tables_of([entry(source="a", table="b__c"), entry(source="a__b", table="c")])
    assert list(tables.specs) == ["source.elt.a.b__c"]
    assert "it and a.b__c would share the Variable watermark__a__b__c; rename one" in (
        tables.problems["source.elt.a__b.c"].sentence
    )
    assert tables.names == ["a.b__c", "a__b.c"]


def test_a_name_that_postgres_would_cut_off() -> None:
    table = "ö" * 32
    message = problem_of(tables_of([entry(table=table), entry(table="good")]), f"source.elt.shop.{table}")
    assert "longer than PostgreSQL's 63 bytes; choose a shorter `name:`" in message


def test_a_name_that_airflow_would_refuse() -> None:
    (spec, other) = tables_of([entry(table="Order Details"), entry(table="Order_Details")]).specs.values()
    assert spec.name == "shop.Order Details" and " " not in spec.watermark_key + spec.task_group
    assert other.watermark_key == "watermark__shop__Order_Details" and other.task_group == "shop.Order_Details"
    assert spec.watermark_key.startswith(other.watermark_key) and spec.task_group.startswith(other.task_group)


def test_a_source_to_load_in_another_schema() -> None:
    message = problem_of(tables_of([entry(schema="public"), entry(table="good")]))
    assert "source 'shop' has schema 'public'; set `schema: raw_shop`, where its tables are loaded, or" in message


def test_a_table_that_dbt_would_read_under_another_name() -> None:
    message = problem_of(tables_of([entry(identifier="tbl_orders"), entry(table="good")]))
    assert "dbt reads it as 'tbl_orders', but it is loaded as 'orders'; move `identifier:` below `extract:`" in message


def test_no_source_at_all() -> None:
    assert tables_of([]) == Tables({}, {}) and tables_of([]).names == []


def test_a_problem_is_of_the_table_that_has_it() -> None:
    tables = tables_of([entry({}), entry(table="good")])
    assert tables.problems["source.elt.shop.orders"] == Problem("shop.orders", problem_of(tables))
    assert tables.names == ["shop.good", "shop.orders"]
