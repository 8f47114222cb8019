"""`make bench`: measure, print the medians, write results.csv."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from benchmarks.loads import deltas, first_loads
from benchmarks.measure import BenchError
from benchmarks.report import Sample, medians, table, write_csv
from benchmarks.shop import open_shop

STEPS = {"load": first_loads, "delta": deltas}


def main() -> int:
    """Run the steps that ONLY names at the sizes that ROWS names, REPEAT rounds each."""
    sizes = [int(rows) for rows in (os.environ.get("ROWS") or "500000").split()]
    repeat = int(os.environ.get("REPEAT") or 3)
    only = (os.environ.get("ONLY") or " ".join(STEPS)).split()
    if unknown := set(only) - STEPS.keys():
        print(f"error: ONLY names {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}", file=sys.stderr)
        return 1
    samples: list[Sample] = []
    try:
        with tempfile.TemporaryDirectory(prefix="elt-bench-") as folder, open_shop(Path(folder)) as shop:
            for rows in sizes:
                shop.fill(rows)
                for step in only:
                    for sample in STEPS[step](shop, rows, repeat):
                        print(f"{sample.task} · {sample.size:,} · {sample.contender}: {sample.cost.seconds:.2f} s")
                        samples.append(sample)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    lines = medians(samples)
    print(table(lines))
    results = Path(os.environ.get("RESULTS") or Path(__file__).with_name("results.csv"))
    write_csv(lines, results)
    print(f"written to {results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
