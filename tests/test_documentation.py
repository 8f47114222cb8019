"""Whatever a person can type or set is in the README or below docs/."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from dbt.node_types import NodeType

from include.local.environment import ROOT
from include.operate import verdict

DOCUMENTS = "\n".join(path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
WORDS = set(re.findall(r"[\w-]+", DOCUMENTS))

MADE_HERE = {"DBT_TARGET_PATH", "DBT_HOST", "DBT_PORT", "DBT_USER", "DBT_DBNAME", "DBT_ENV_SECRET_PASSWORD"}
"""Variables that one part of the project sets for another."""


def make_targets() -> list[str]:
    return re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


def compose_services() -> list[str]:
    return list(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])


def variables() -> list[str]:
    """Of `.env.example`, the compose file, the Makefile's help, dbt's profile and the Python code."""
    code = "\n".join(path.read_text() for path in sorted((ROOT / "include").rglob("*.py")))
    patterns: list[tuple[Path | str, str]] = [
        (ROOT / ".env.example", r"^(?:# )?([A-Z_]+)="),
        (ROOT / "docker-compose.yml", r"(?<!\$)\$\{([A-Z_]+)"),
        (ROOT / "Makefile", r"## .*?\b([A-Z_]{4,})="),
        (ROOT / "dbt" / "profiles.yml", r"env_var\('([A-Z_]+)'"),
        (code, r"""(?:environ(?:\.get\(|\[)|user\.get\(|number\(user, )"([A-Z_]+)\""""),
    ]
    texts = [(each.read_text() if isinstance(each, Path) else each, pattern) for each, pattern in patterns]
    groups = [set(re.findall(pattern, text, re.MULTILINE)) for text, pattern in texts]
    assert all(groups), "a pattern finds nothing any more"
    return sorted(set().union(*groups) - MADE_HERE)


LISTED = (ROOT / "docs" / "dbt.md").read_text()
UNSEEN = {NodeType.RPCCall, NodeType.SqlOperation}
"""Kinds of nodes that are in no project."""


@pytest.mark.parametrize("kind", sorted({*NodeType} - UNSEEN))
def test_what_the_graph_does_with_it_is_documented(kind: NodeType) -> None:
    named = "|".join(line.split("|")[1] for line in LISTED.splitlines() if line.startswith("| "))
    assert kind.value.replace("_", " ") in named, "add a line to docs/dbt.md"


# sample shop: begins
def test_each_line_of_that_list_is_held_by_a_test() -> None:
    texts = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    known = {name for text in texts for name in re.findall(r"def (test_\w+)", text)}
    named = [re.findall(r"`(test_\w+)`", line) for line in LISTED.splitlines() if re.match(r"\| (?!of dbt)", line)]
    assert len(named) > 20 and all(len(each) == 1 and set(each) <= known for each in named)


# sample shop: ends
def test_each_thing_that_the_page_names_is_explained() -> None:
    page = (ROOT / "docs" / "health.md").read_text()
    assert re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE)[1:] == list(verdict.KINDS)


@pytest.mark.parametrize("target", make_targets())
def test_every_make_target_is_documented(target: str) -> None:
    assert re.search(rf"make (?:[\w-]+ )*{target}\b", DOCUMENTS), f"write down what `make {target}` is for"


@pytest.mark.parametrize("service", compose_services())
def test_every_compose_service_is_documented(service: str) -> None:
    assert f"`{service}`" in DOCUMENTS, f"add service {service} to docs/containers.md"


@pytest.mark.parametrize("variable", variables())
def test_every_variable_is_documented(variable: str) -> None:
    assert variable in WORDS, f"write down what {variable} does"
