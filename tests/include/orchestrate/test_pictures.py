"""What is drawn on the page Pipeline health: each bar is a number of the ledger."""

from __future__ import annotations

from datetime import timedelta

import pytest

from include.operate import health
from include.orchestrate import pictures
from include.orchestrate.pictures import Bar, Picture
from tests.include.conftest import Pipeline


def loaded(pipeline: Pipeline, loads: int, days_apart: float) -> None:
    """A table with as many loads, the newest now; no two read as many rows or took as long."""
    pipeline.insert(1)
    pipeline.run(pipeline.spec())
    copied = """
        insert into _elt.load_ledger overriding system value
        select (jsonb_populate_record(load, jsonb_build_object(
            'load_id', -number, 'extraction_id', -number, 'rows_extracted', number, 'rows_deleted', number %% 7,
            'loaded_at', loaded_at - number * %s::interval,
            'started_at', loaded_at - number * %s::interval - number * interval '1 s'))).*
        from _elt.load_ledger as load, generate_series(1, %s) as number"""
    apart = timedelta(days=days_apart)
    pipeline.warehouse.execute(copied, (apart, apart, loads - 1))


def test_a_bar_is_a_load_and_has_its_numbers(pipeline: Pipeline) -> None:
    loaded(pipeline, 40, days_apart=3)
    read, deleted, took = pictures.of_history(health.read_history(pipeline.warehouse, pipeline.spec()))
    expected = pipeline.warehouse.execute(
        "select rows_extracted, rows_deleted, extract(epoch from loaded_at - started_at)::float8 from _elt.load_ledger "
        "where loaded_at > now() - interval '90 days' order by loaded_at"
    ).fetchall()
    assert len(expected) == 30
    assert [(a.value, b.value, c.value) for a, b, c in zip(read.bars, deleted.bars, took.bars, strict=True)] == expected
    assert read.bars[0].said.endswith(f": {expected[0][0]} rows read")
    assert read.highest.value == read.top == max(row[0] for row in expected)


def test_where_loads_are_many_a_bar_is_a_day(pipeline: Pipeline) -> None:
    loaded(pipeline, 400, days_apart=0.25)
    read, deleted, took = pictures.of_history(health.read_history(pipeline.warehouse, pipeline.spec()))
    expected = pipeline.warehouse.execute(
        "select sum(rows_extracted)::bigint, sum(rows_deleted)::bigint, "
        "max(extract(epoch from loaded_at - started_at))::float8 from _elt.load_ledger "
        "where loaded_at > now() - interval '90 days' group by (loaded_at at time zone 'utc')::date "
        "order by (loaded_at at time zone 'utc')::date"
    ).fetchall()
    assert 90 <= len(expected) <= health.MAX_BARS
    assert [(a.value, b.value, c.value) for a, b, c in zip(read.bars, deleted.bars, took.bars, strict=True)] == expected
    assert ", 4 loads: " in read.bars[1].said


def test_the_page_asks_the_warehouse_as_often_for_many_tables_as_for_one(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.run(pipeline.spec())
    asked: list[str] = []
    real = health.statement
    monkeypatch.setattr(health, "statement", lambda name: asked.append(name) or real(name))
    many = [pipeline.spec(), *(pipeline.spec().model_copy(update={"table": f"t{number}"}) for number in range(300))]
    found = health.read_tables(pipeline.warehouse, many, {}, 20)
    assert [len(table.loads) for table in found] == [1] + [0] * 300 and len(asked) == 5


def picture(*values: float) -> Picture:
    return Picture("rows", [Bar(value, str(value)) for value in values])


def test_unusual_is_what_lies_outside_of_what_was_before() -> None:
    before = (100, 120, 90, 110, 105, 95, 115, 100)
    assert picture(*before, 108).usual is not None and not picture(*before, 108).is_unusual
    assert picture(*before, 900).is_unusual and picture(*before, 0).is_unusual
    assert not picture(*before[1:], 900).is_unusual, "too few to tell"
    low, high = picture(*before, 900).usual or (0, 0)
    assert low <= min(before) and max(before) <= high < 200


def test_a_picture_of_nothing_has_a_height(pipeline: Pipeline) -> None:
    assert picture(0, 0).top == 1 and not picture(*[0] * 9).is_unusual
