"""What README shows of the results: two tables and a plot, all made from results.csv alone."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from benchmarks.goals import OURS
from benchmarks.report import WRITTEN, Median
from include.local.environment import ROOT

RESULTS, PLOT, README = (ROOT / path for path in WRITTEN)

LOADS, GRAPH = ("first load", "delta of", "replay of"), ("scheduler", "one process")
"""How the tasks of each table begin, those with the same contenders. They are shown at the largest size of all."""

BETWEEN = re.compile(r"(?<=<!-- make bench -->\n).*?(?=<!-- end -->)", re.DOTALL)


def publish(lines: list[Median]) -> None:
    """Write plot and README anew."""
    PLOT.write_text(plot(lines))
    README.write_text(BETWEEN.sub(lambda _: markdown(lines), README.read_text()))


def markdown(lines: list[Median]) -> str:
    """The loads, then the graph."""
    return _table(_panels(lines, LOADS)) + "\n" + _table(_panels(lines, GRAPH))


def _table(panels: dict[str, list[Median]]) -> str:
    """A column for each task: seconds, and how many times as long as its first contender each takes."""
    names = dict.fromkeys(line.contender for panel in panels.values() for line in panel)
    rows = ["| |" + "".join(f" {title} |" for title in panels), "|---|" + "---:|" * len(panels)]
    for name in names:
        cells = [next((_cell(line) for line in panel if line.contender == name), "") for panel in panels.values()]
        rows.append(f"| {name} |" + "".join(f" {cell} |" for cell in cells))
    return "\n".join(rows) + "\n"


def _cell(line: Median) -> str:
    return f"{line.seconds:.2f} s" + ("" if line.contender == OURS else f" · {line.ratio:.1f} ×")


def plot(lines: list[Median]) -> str:
    """Bars as SVG, readable on a light and on a dark background."""
    panels = [(title, panel, max(line.seconds for line in panel)) for title, panel in _panels(lines, LOADS).items()]
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True)
    return templates.get_template("plot.svg.jinja").render(panels=panels, ours=OURS)


def _panels(lines: list[Median], begin: tuple[str, ...]) -> dict[str, list[Median]]:
    """The lines of these tasks that are shown, by title."""
    shown = [line for line in lines if line.task.startswith(begin)]
    largest = max((line.size for line in shown), default=0)
    kept = [line for line in shown if line.size == largest]
    return {
        _title(task, size): list(group)
        for (task, size), group in groupby(kept, key=lambda line: (line.task, line.size))
    }


def _title(task: str, size: int) -> str:
    if task in GRAPH:
        return f"{task}, {size:,} dbt models"
    return f"{task} {'of' if task == 'first load' else 'into'} {size:,} rows"
