"""A broken source entry is one sentence that names file, table and remedy."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from include.errors import ConfigError
from include.sources import load_specs

ENTRY = """
sources:
  - name: shop
    schema: raw_shop
    tables:
      - name: orders
        config: {{meta: {{extract: {{{extract}}}}}}}
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "dbt" / "models").mkdir(parents=True)
    return tmp_path / "dbt" / "models"


def write(models: Path, extract: str, name: str = "_sources.yml") -> None:
    (models / name).write_text(ENTRY.format(extract=extract))


def test_an_entry_becomes_a_spec(models: Path) -> None:
    write(models, "key: id, cursor: updated_at, overlap: 2 hours")
    (spec,) = load_specs(models)
    assert (spec.name, spec.key, spec.overlap) == ("shop.orders", ("id",), timedelta(hours=2))
    assert (spec.raw_schema, spec.watermark_key) == ("raw_shop", "watermark__shop__orders")


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
        ("key: [id], cursor: u, columns: {a: drop}", "columns.a is 'drop'", "write one of 'omit', 'hash' or 'text'"),
        ("key: [id], cursor: u, drift: stop", "drift is 'stop'", "write one of 'evolve' or 'freeze'"),
        ("key: [id], cursor: u, table: x", "unknown key 'table'", "remove it"),
    ],
)
def test_a_broken_entry_names_file_table_and_remedy(models: Path, extract: str, problem: str, remedy: str) -> None:
    write(models, extract)
    with pytest.raises(ConfigError) as raised:
        load_specs(models)
    message = str(raised.value)
    assert message.startswith("dbt/models/_sources.yml: table shop.orders: ")
    assert problem in message and remedy in message and "\n" not in message


def test_a_table_listed_twice(models: Path) -> None:
    write(models, "key: [id], cursor: u")
    write(models, "key: [id], cursor: u", "more.yml")
    with pytest.raises(ConfigError, match="more.yml: table shop.orders is listed twice; remove one"):
        load_specs(models)


def test_two_tables_that_would_share_a_variable(models: Path) -> None:
    entry = (
        "{{name: {}, schema: raw_{}, tables: [{{name: {}, config: {{meta: {{extract: {{key: id, cursor: u}}}}}}}}]}}"
    )
    sources = ", ".join(entry.format(*names) for names in (("a", "a", "b__c"), ("a__b", "a__b", "c")))
    (models / "s.yml").write_text(f"sources: [{sources}]")
    with pytest.raises(ConfigError, match="a__b.c and a.b__c would share the Variable watermark__a__b__c; rename"):
        load_specs(models)


def test_a_name_that_postgres_would_cut_off(models: Path) -> None:
    write(models, "key: id, cursor: u")
    text = (models / "_sources.yml").read_text()
    (models / "_sources.yml").write_text(text.replace("name: orders", f"name: {'ö' * 32}"))
    with pytest.raises(ConfigError, match="longer than PostgreSQL's 63 bytes; choose a shorter `name:`"):
        load_specs(models)


def test_an_entry_without_extract(models: Path) -> None:
    (models / "s.yml").write_text("sources: [{name: shop, schema: raw_shop, tables: [{name: orders}]}]")
    with pytest.raises(ConfigError, match="s.yml: table shop.orders: `config.meta.extract` is missing; add it"):
        load_specs(models)


def test_a_source_in_another_schema(models: Path) -> None:
    (models / "s.yml").write_text("sources: [{name: shop, schema: public, tables: []}]")
    with pytest.raises(ConfigError, match="source 'shop' has schema 'public'; set `schema: raw_shop`"):
        load_specs(models)


def test_broken_yaml(models: Path) -> None:
    (models / "s.yml").write_text("sources: [")
    with pytest.raises(ConfigError, match="s.yml: not valid YAML"):
        load_specs(models)


def test_no_source_at_all(models: Path) -> None:
    with pytest.raises(ConfigError, match="no dbt source lists a table"):
        load_specs(models)
