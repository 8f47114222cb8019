"""First load and delta, each contender in each round: what disturbs the machine for a while disturbs all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator

from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.measure import Cost, run
from benchmarks.report import Sample
from benchmarks.shop import Shop
from benchmarks.tools import NO_TELEMETRY, is_installed, program
from include.local.environment import ROOT


def first_loads(shop: Shop, rows: int, repeat: int) -> Iterator[Sample]:
    """Load `rows` orders into an empty warehouse; the shop is filled already."""
    for turn in range(repeat):
        for contender in _taking_part(rows, turn):
            yield Sample("first load", rows, contender.name, _first(shop, contender))


def deltas(shop: Shop, rows: int, repeat: int) -> Iterator[Sample]:
    """Change some of the shop (`DELTA` rows), then load that; each contender goes on from what it loaded before."""
    for contender in _updating(rows, 0):
        if not shop.is_in(contender.schema):
            _first(shop, contender)
    size = int(os.environ.get("DELTA") or max(2, rows // 100))
    for turn in range(repeat):
        since = shop.change(size)
        for contender in _updating(rows, turn):
            assert contender.delta
            cost = _timed(shop, contender, contender.delta, since)
            yield Sample(f"delta of {size:,}", rows, contender.name, cost)
        for contender in _updating(rows, turn):
            if contender.replay:
                cost = _timed(shop, contender, contender.replay, since)
                yield Sample(f"replay of {size:,}", rows, contender.name, cost)


def left_out(sizes: list[int]) -> Iterator[str]:
    """Say who is not measured, and why."""
    for contender in CONTENDERS:
        if contender.tool and not is_installed(contender.tool):
            yield f"missing: {contender.name} (make bench-tools)"
        elif contender.most_rows and max(sizes) > contender.most_rows:
            yield f"slow: {contender.name} is measured at {contender.most_rows:,} rows at most"


def _taking_part(rows: int, turn: int) -> list[Contender]:
    """Each round another one begins: who is first finds the source's pages cold."""
    first = turn % len(CONTENDERS)
    return [
        contender
        for contender in (*CONTENDERS[first:], *CONTENDERS[:first])
        if (not contender.tool or is_installed(contender.tool))
        and (not contender.most_rows or (rows <= contender.most_rows and turn == 0))
    ]


def _updating(rows: int, turn: int) -> list[Contender]:
    return [contender for contender in _taking_part(rows, turn) if contender.delta]


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
        "BENCH_FOLDER": str(shop.folder),
        "BENCH_TOOL": str(program(contender.tool)) if contender.tool else "",
    }
    shop.settle()
    cost = run(command, variables | NO_TELEMETRY, cwd=ROOT)
    shop.check(contender.schema)
    return cost
