"""Several DAGs of one dbt project: which of its nodes each of them has. A node belongs to one.

A DAG file that calls `render_pipeline(dag, select="tag:hourly")` has what dbt selects by that; the one that gives no
selection has the rest of what `dbt build` builds. The files themselves are the list of who claims what.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from include.dbt import project as dbt_project
from include.errors import ConfigError

DAGS_DIR = Path(__file__).resolve().parents[2] / "dags"


@dataclass(frozen=True)
class Part:
    """What one DAG has of the project.

    Attributes:
        nodes: dbt's unique ids; None for all but `others`.
        others: Nodes that other DAGs have.
        left_out: Nodes and tests that `dbt build` leaves out, as the project's default selector says.
        contested: Of its nodes those that another file claims too, with the sentence that says so.
    """

    nodes: set[str] | None = None
    others: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    contested: dict[str, str] = field(default_factory=dict)

    def __contains__(self, unique_id: str) -> bool:
        if self.nodes is not None:
            return unique_id in self.nodes
        return unique_id not in self.others and unique_id not in self.left_out

    def has_test(self, test: Mapping[str, Any]) -> bool:
        """Whether it has a test: where it has the last of the nodes that the test reads."""
        last = test["last"] or test["unique_id"]
        if self.nodes is not None:
            return last in self.nodes
        return last not in self.others and test["unique_id"] not in self.left_out


def part_of(selection: str | None, graph: Mapping[str, Any]) -> Part:
    """What the DAG that gives this selection has; None: all that no DAG file claims.

    Args:
        graph: What `include.dbt.graph.draw` made of dbt's manifest.

    Raises:
        ConfigError: the selection is not in a DAG file as a plain text, or dbt selects nothing by it.
    """
    claimed = claims()
    if selection is not None and selection not in claimed:
        raise ConfigError(
            f"no file of {DAGS_DIR.name}/ calls render_pipeline(…, select={selection!r}) with a plain text; "
            "write it so, as the other DAGs look for it there"
        )
    if selection is None:
        built = {*graph["nodes"], *graph["tests"]}
        left_out = built - dbt_project.selected("") if graph["has_default_selector"] else set()
        return Part(others=set().union(*(_selected_or_nothing(other) for other in claimed)), left_out=left_out)
    own, contested = dbt_project.selected(selection), dict[str, str]()
    for other, files in claimed.items():
        if other != selection or len(files) > 1:
            named = (
                f"{', '.join(sorted({*claimed[selection], *files}))} claim it, by {' and '.join({selection, other})}"
            )
            both = own & _selected_or_nothing(other)
            contested |= dict.fromkeys(both, f"{named}; a node belongs to one DAG: take it out of the other selections")
    return Part(own, contested=contested)


def claims() -> dict[str, list[str]]:
    """The selections that DAG files give to `render_pipeline`, and the files that do."""
    found: dict[str, list[str]] = {}
    for path in sorted(DAGS_DIR.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "render_pipeline" in text and "select" in text else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "render_pipeline":
                for argument in node.keywords:
                    if argument.arg == "select" and isinstance(argument.value, ast.Constant) and argument.value.value:
                        found.setdefault(str(argument.value.value), []).append(f"{DAGS_DIR.name}/{path.name}")
    return found


def _selected_or_nothing(selection: str) -> set[str]:
    """What another DAG has; if its selection cannot work, that is said there, and the node stays here."""
    try:
        return dbt_project.selected(selection)
    except ConfigError:
        return set()
