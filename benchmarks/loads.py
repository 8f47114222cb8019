"""First load and delta, each contender in each round: what disturbs the machine for a while disturbs all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.measure import Cost, run
from benchmarks.report import Sample
from benchmarks.shop import Shop

ROOT = Path(__file__).resolve().parent.parent


def first_loads(shop: Shop, rows: int, repeat: int) -> Iterator[Sample]:
    """Load `rows` orders into an empty warehouse; the shop is filled already."""
    for _ in range(repeat):
        for contender in CONTENDERS:
            yield Sample("first load", rows, contender.name, _first(shop, contender))


def deltas(shop: Shop, rows: int, repeat: int) -> Iterator[Sample]:
    """Change 1 % of the shop, then load that; each contender goes on from what it loaded before."""
    updating = [contender for contender in CONTENDERS if contender.delta]
    for contender in updating:
        _first(shop, contender)
    for _ in range(repeat):
        _, since = shop.change()
        for contender in updating:
            assert contender.delta
            yield Sample("delta 1 %", rows, contender.name, _timed(shop, contender, contender.delta, since))
        for contender in updating:
            if contender.replay:
                cost = _timed(shop, contender, contender.replay, since)
                yield Sample("replay", rows, contender.name, cost)


def _first(shop: Shop, contender: Contender) -> Cost:
    shop.empty(contender.schema, contender.table)
    return _timed(shop, contender, contender.first, "-infinity")


def _timed(shop: Shop, contender: Contender, command: list[str], since: str) -> Cost:
    """Run one load, then look whether everything arrived: nobody wins by losing rows."""
    variables = {
        "BENCH_SOURCE": shop.source,
        "BENCH_WAREHOUSE": shop.warehouse,
        "BENCH_SCHEMA": contender.schema,
        "BENCH_SINCE": since,
        "BENCH_PSQL": str(shop.psql),
    }
    shop.settle()
    cost = run(command, variables, cwd=ROOT)
    shop.check(contender.schema)
    return cost
