"""`deletes: soft` of incremental tables: what no cursor shows is found by comparing keys; only that is read again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from include.postgres.buckets import WHOLE, count_for
from include.sources import TableSpec
from include.state import extractions
from include.state.messages import Window
from tests.include.conftest import Pipeline

ROWS = 20_000


@pytest.fixture
def spec(pipeline: Pipeline) -> TableSpec:
    """A table of 128 buckets, loaded once, all its cursors long past."""
    pipeline.fill(ROWS)
    made = pipeline.spec(deletes="soft")
    pipeline.run(made)
    return made


def deleted(pipeline: Pipeline) -> list[int]:
    return [row[0] for row in pipeline.raw("select id from raw_shop.orders where _deleted_at is not null order by 1")]


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ("delete from orders where id = 7", [7]),
        ("update orders set id = 1000007 where id = 7", [7]),
        ("update orders set id = 1000007, updated_at = now() where id = 7", [7]),
        ("update orders set id = -id where id in (7, 8)", [7, 8]),
        ("delete from orders where id = 7; insert into orders values (7, 70, '2020-01-01')", []),
        ("insert into orders values (1000007, 1, '2020-01-01')", []),
        ("update orders set updated_at = '-infinity', amount = 0 where id = 7", []),
    ],
)
def test_a_change_that_no_cursor_shows_is_found(
    pipeline: Pipeline, spec: TableSpec, change: str, gone: list[int]
) -> None:
    pipeline.app.execute(change)
    result = pipeline.run(spec)
    assert deleted(pipeline) == gone and result.rows_deleted == len(gone)
    assert 0 < result.rows_extracted < ROWS / 20
    pipeline.assert_equal()


def test_nothing_is_read_again_where_nothing_differs(pipeline: Pipeline, spec: TableSpec) -> None:
    pipeline.app.execute("update orders set amount = 1, updated_at = now() where id <= 3")
    assert pipeline.run(spec).rows_extracted == 3
    assert pipeline.run(spec).rows_extracted == 3


def test_a_row_in_the_window_and_in_a_differing_bucket_is_staged_once(pipeline: Pipeline, spec: TableSpec) -> None:
    pipeline.app.execute("delete from orders where id % 100 = 0")
    pipeline.app.execute("update orders set amount = 1, updated_at = now() where id % 3 = 0")
    batch = pipeline.extract(spec)
    assert pipeline.raw(f"select count(*) from (select distinct id from _elt.staging_{batch.extraction_id}) s") == [
        (batch.rows_extracted,)
    ]
    assert pipeline.load(spec, batch).rows_deleted == ROWS / 100
    pipeline.assert_equal()


def test_a_row_that_comes_back_lives_again(pipeline: Pipeline, spec: TableSpec) -> None:
    pipeline.app.execute("delete from orders where id = 7")
    pipeline.run(spec)
    assert deleted(pipeline) == [7]
    pipeline.app.execute("insert into orders values (7, 7, '2026-01-01'::timestamptz + interval '7 seconds')")
    assert pipeline.run(spec).rows_updated == 1
    assert deleted(pipeline) == []
    pipeline.assert_equal()


def test_a_truncated_table_is_emptied(pipeline: Pipeline, spec: TableSpec) -> None:
    pipeline.app.execute("truncate orders")
    assert pipeline.run(spec).rows_deleted == ROWS
    pipeline.assert_equal()


def test_a_table_truncated_and_loaded_again_is_read_whole(pipeline: Pipeline, spec: TableSpec) -> None:
    """From an older dump: the cursors lie before the watermark."""
    pipeline.app.execute("create table dump as select id + 100 as id, amount + 1 as amount from orders")
    pipeline.app.execute("truncate orders; insert into orders select id, amount, '2025-01-01' from dump")
    batch = pipeline.extract(spec)
    assert extractions.held_buckets(pipeline.warehouse, batch.extraction_id) == WHOLE
    assert pipeline.load(spec, batch).rows_deleted == 100
    pipeline.assert_equal()


def test_a_backfill_deletes_nothing(pipeline: Pipeline, spec: TableSpec) -> None:
    pipeline.app.execute("delete from orders where id = 7")
    day = Window("window", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), None)
    assert pipeline.run(spec, window=day).rows_deleted == 0
    assert deleted(pipeline) == []


def test_deletes_that_are_ignored_are_not_looked_for(pipeline: Pipeline, spec: TableSpec) -> None:
    pipeline.app.execute("delete from orders where id = 7")
    result = pipeline.run(spec.model_copy(update={"deletes": "ignore"}))
    assert (result.rows_extracted, result.rows_deleted) == (0, 0)


def test_a_slower_run_does_not_delete_what_a_faster_one_brought(pipeline: Pipeline, spec: TableSpec) -> None:
    pipeline.app.execute("delete from orders where id in (7, 8)")
    slow = pipeline.extract(spec, run_id="slow")
    pipeline.app.execute("insert into orders values (7, 70, now())")
    pipeline.beside().run(spec, run_id="fast")
    assert pipeline.load(spec, slow).rows_deleted == 0
    assert deleted(pipeline) == [8]
    pipeline.assert_equal()


def test_a_slower_run_does_not_bring_back_what_a_faster_one_found_deleted(pipeline: Pipeline, spec: TableSpec) -> None:
    pipeline.app.execute("update orders set amount = 1, updated_at = now() where id = 7")
    slow = pipeline.extract(spec, run_id="slow")
    pipeline.app.execute("delete from orders where id = 7")
    pipeline.beside().run(spec, run_id="fast")
    pipeline.load(spec, slow)
    assert deleted(pipeline) == [7]


def test_a_key_whose_bytes_alone_change_arrives(pipeline: Pipeline) -> None:
    pipeline.app.execute("create table prices (n numeric primary key, updated_at timestamptz not null)")
    pipeline.app.execute("insert into prices values (1.0, '2026-01-01')")
    spec = pipeline.spec("prices", key=["n"], deletes="soft")
    pipeline.run(spec)
    pipeline.app.execute("update prices set n = 1.00")
    assert pipeline.run(spec).rows_updated == 1
    assert pipeline.run(spec).rows_extracted == 0
    pipeline.assert_equal("n, updated_at", "prices")


def test_composite_keys_and_odd_texts_fall_into_the_same_buckets(pipeline: Pipeline) -> None:
    pipeline.app.execute(
        'create table "Odd" ("a b" text, "%s" bytea, "select" date, updated_at timestamptz not null, '
        'primary key ("a b", "%s", "select"))'
    )
    pipeline.app.execute(
        """insert into "Odd" select chr(n) || '"(,)\\ é😀' || n, decode(md5(n::text), 'hex'), '2026-01-01'::date + n,
        '2026-01-01' from generate_series(32, 3031) n"""
    )
    spec = pipeline.spec("odd", identifier="Odd", key=["a b", "%s", "select"], deletes="soft")
    pipeline.run(spec)
    assert pipeline.run(spec).rows_extracted == 0
    pipeline.app.execute("""delete from "Odd" where "select" = '2026-03-01'""")
    result = pipeline.run(spec)
    assert result.rows_deleted == 1 and result.rows_extracted < 3000


@pytest.mark.parametrize(
    ("rows", "count"), [(0, 1), (255, 1), (256, 2), (1000, 4), (10_000_000, 65_536), (10**9, 65_536)]
)
def test_buckets_are_a_power_of_two(rows: int, count: int) -> None:
    assert count_for(rows) == count
