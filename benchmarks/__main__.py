"""`make bench`: measure, print the medians, write results.csv."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.goals import verdicts
from benchmarks.graphs import parses, runs
from benchmarks.installation import open_project
from benchmarks.loads import deltas, first_loads, left_out
from benchmarks.measure import BenchError
from benchmarks.published import PLOT, README, RESULTS, publish
from benchmarks.report import Sample, is_dirty, medians, table, write_csv
from benchmarks.shop import open_shop
from include.local.environment import ROOT

LOADS = {"load": first_loads, "delta": deltas}
GRAPHS = {"graph": (runs, "10 40"), "parse": (parses, "10 200 1000")}
"""Each with the numbers of models it is measured at by default."""


def main() -> int:
    """Run the steps that ONLY names at the sizes that ROWS and MODELS name, REPEAT rounds each."""
    only = (os.environ.get("ONLY") or " ".join([*LOADS, *GRAPHS])).split()
    if unknown := set(only) - LOADS.keys() - GRAPHS.keys():
        print(
            f"error: ONLY names {', '.join(sorted(unknown))}; there are {', '.join([*LOADS, *GRAPHS])}", file=sys.stderr
        )
        return 1
    results = Path(os.environ.get("RESULTS") or RESULTS)
    if results == RESULTS and is_dirty():
        print("error: README shows what a commit took: commit first, or write elsewhere with RESULTS=", file=sys.stderr)
        return 1
    samples: list[Sample] = []
    try:
        with tempfile.TemporaryDirectory(prefix="elt-bench-") as folder:
            for sample in _measure(Path(folder), only, int(os.environ.get("REPEAT") or 3)):
                print(f"{sample.task} · {sample.size:,} · {sample.contender}: {sample.cost.seconds:.2f} s")
                samples.append(sample)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    lines = medians(samples)
    print(table(lines))
    print(*verdicts({(line.task, line.size, line.contender): line.seconds for line in lines}), sep="\n")
    held = write_csv(lines, results)
    print(f"written to {results}")
    if results == RESULTS:
        publish(held)
        print(f"{PLOT.relative_to(ROOT)} and the tables in {README.name} are made from it")
    return 0


def _measure(folder: Path, only: list[str], repeat: int) -> Iterator[Sample]:
    if loads := [LOADS[step] for step in only if step in LOADS]:
        with open_shop(folder) as shop:
            sizes = _sizes("ROWS", "500000")
            print(*left_out(sizes), sep="\n")
            for rows in sizes:
                shop.fill(rows)
                for load in loads:
                    yield from load(shop, rows, repeat)
    graphs = [
        (measure, _sizes("MODELS", models)) for measure, models in (GRAPHS[step] for step in only if step in GRAPHS)
    ]
    for number in sorted({number for _, numbers in graphs for number in numbers}):
        with open_project(folder, number) as project:
            for measure, numbers in graphs:
                if number in numbers:
                    yield from measure(project, repeat)


def _sizes(variable: str, default: str) -> list[int]:
    return [int(size) for size in (os.environ.get(variable) or default).split()]


if __name__ == "__main__":
    sys.exit(main())
