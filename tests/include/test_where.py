"""`where:`: the rows of a table that meet a condition, whatever it goes by and however a row comes to meet it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from include.errors import ConfigError
from include.operate.plan import plan_table
from include.operate.reconcile import reconcile
from include.sources import TableSpec
from tests.include.conftest import Pipeline

OF_OPEN_SHOPS = "amount > 0 and id % 10 in (select number from public.shops where open)"


@pytest.fixture
def shops(pipeline: Pipeline) -> Pipeline:
    pipeline.app.execute("create table shops (number int, open bool)")
    pipeline.app.execute("insert into shops select number, number < 5 from generate_series(0, 9) as number")
    pipeline.fill(2_000)
    return pipeline


def part_of(pipeline: Pipeline, **extract: Any) -> TableSpec:
    return pipeline.spec(**{"deletes": "soft", "where": OF_OPEN_SHOPS} | extract)


def assert_part(pipeline: Pipeline, where: str = OF_OPEN_SHOPS) -> None:
    columns = "id, amount, updated_at"
    living = pipeline.dump(pipeline.warehouse, "raw_shop.orders", columns, "_deleted_at is null")
    assert living and living == pipeline.dump(pipeline.source, "public.orders", columns, where)


@pytest.mark.parametrize("extract", [{}, {"mode": "full"}, {"mode": "full", "rows_per_range": 300}], ids=str)
def test_rows_enter_and_leave_with_or_without_their_cursor(shops: Pipeline, extract: dict[str, Any]) -> None:
    spec = part_of(shops, **extract)
    for change in (
        "select",
        "update orders set amount = -1, updated_at = now() where id in (2, 5)",
        "update orders set amount = 1, updated_at = now() where id in (2, 5)",
        "update orders set amount = -1 where id < 100",
        "update shops set open = not open",
        "insert into orders values (9001, 1, now()), (9005, 1, now()); delete from orders where id in (7, 1)",
    ):
        shops.app.execute(change)
        if spec.rows_per_range:
            parts = shops.cut(spec)
            assert len(parts) > 1
            shops.load(spec, *(shops.read(spec, part) for part in parts))
        else:
            shops.run(spec)
        assert_part(shops)


def test_a_run_reads_no_more_than_what_moved(shops: Pipeline) -> None:
    spec = part_of(shops)
    assert (
        shops.run(spec).rows_extracted
        == shops.app.execute(f"select count(*) from orders where {OF_OPEN_SHOPS}").fetchone()[0]
    )
    shops.app.execute("update orders set updated_at = now() where id in (2, 5)")
    assert shops.run(spec).rows_extracted == 1


def test_a_plan_and_a_comparison_look_at_the_same_rows(shops: Pipeline) -> None:
    whole = part_of(shops, where="id <= 50", mode="full")
    assert ("rows", "about 50") in plan_table(shops.source, shops.warehouse, whole, shops.horizon(), None).steps
    spec = part_of(shops)
    shops.run(spec)
    report = reconcile(shops.source, shops.warehouse, spec)
    assert report.is_clean and report.rows == (1_000, 1_000)
    shops.app.execute("update public.shops set open = not open where number = 0")
    report = reconcile(shops.source, shops.warehouse, spec)
    assert report.rows == (800, 1_000) and not report.is_clean


def test_another_condition_is_followed_at_once(shops: Pipeline) -> None:
    shops.run(shops.spec(deletes="soft"))
    shops.run(part_of(shops))
    assert_part(shops)
    shops.run(part_of(shops, where="id < 50"))
    assert_part(shops, "id < 50")
    shops.run(shops.spec(deletes="soft"))
    shops.assert_equal()


def test_it_is_text_of_any_kind(shops: Pipeline) -> None:
    where = "amount::text like '1%' and not '{}' = '%s' -- and whatever else (\n"
    shops.run(part_of(shops, where=where))
    assert_part(shops, where)


def test_null_cursors_of_other_rows_are_nobodys(shops: Pipeline) -> None:
    shops.app.execute(
        "alter table orders alter updated_at drop not null; update orders set updated_at = null where id = 5"
    )
    shops.run(part_of(shops))
    with pytest.raises(Exception, match="rows with NULL in cursor 'updated_at' would never be read"):
        shops.run(shops.spec())


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("amout > 0", 'column "amout" does not exist'),
        ("amount", "argument of WHERE must be type boolean"),
        ("amount > ", "syntax error"),
        ("count(*) > 1", "aggregate functions are not allowed in WHERE"),
        ("id in (select id from secrets)", 'relation "secrets" does not exist'),
    ],
)
def test_what_is_no_condition_is_refused_before_anything_is_written(shops: Pipeline, where: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        shops.run(part_of(shops, where=where))
    assert str(raised.value).startswith(f"shop.orders: `where: {where}` cannot be asked: {said}")
    assert shops.raw("select count(*) from _elt.extraction") == [(0,)]


def test_what_it_may_not_look_at_is_to_be_granted(shops: Pipeline) -> None:
    shops.app.execute("create role shy; grant pg_read_all_stats to shy; grant select on orders to shy")
    try:
        shops.source.execute("set role shy")
        with pytest.raises(ConfigError, match="cannot be asked: permission denied for table shops; grant it to"):
            shops.run(part_of(shops))
    finally:
        shops.source.execute("reset role")
        shops.app.execute("drop owned by shy; drop role shy")


@pytest.mark.parametrize("extract", [{"deletes": "ignore"}, {"mode": "append", "deletes": "ignore"}])
def test_it_wants_what_sees_rows_leave(pipeline: Pipeline, extract: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="no cursor shows a row that begins or ceases to meet `where:`; add"):
        part_of(pipeline, **extract)
