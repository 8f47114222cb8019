"""Names that Airflow accepts, made of names that dbt and PostgreSQL accept.

Each is made of its own thing alone, whatever else there is: a task keeps its id, and with it its history, when a table,
model or test is added. A name is itself where it is letters, digits, `-` and `_` and nothing else can have it in its
place; else it is followed by `_x` and eight digits of a hash of what it stands for.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Set

LONGEST_LAYER, LONGEST_GROUP, LONGEST_TASK = 50, 80, 100
"""Characters. Airflow takes 250 for all three and their dots; a log's folder, `task_id=` and the id, 255."""

RESERVED_LAYERS = frozenset({"seeds", "snapshots", "functions", "models", "tests"})
"""Groups that rendering makes itself, whatever the folders and sources are called."""

RESERVED_TASKS = frozenset({"all_built", "check_parameters", "horizon", "marts_ready", "on_run_end", "on_run_start"})
"""Tasks that stand among groups."""

_PLAIN = re.compile("[A-Za-z0-9_-]+")
_HASHED = re.compile(".*_x[0-9a-f]{8}")


def accepted(name: str, identity: str, longest: int, taken: Set[str] = frozenset()) -> str:
    """`name` where Airflow accepts it and it is not `taken`, else with a hash of `identity`."""
    is_plain = _PLAIN.fullmatch(name) and not _HASHED.fullmatch(name) and len(name) <= longest
    return name if is_plain and name not in taken else hashed(name, identity, longest)


def hashed(name: str, identity: str, longest: int) -> str:
    """`name`, cut and spelt as Airflow accepts it, with a hash of `identity`: for names that several may have."""
    spelt = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    spelt = re.sub("[^A-Za-z0-9_-]+", "_", spelt)[: longest - 10]
    return f"{spelt}_x{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def layer_of_source(source: str) -> str:
    """The group of a source's tables."""
    return accepted(source, f"source.{source}", LONGEST_LAYER, RESERVED_LAYERS | RESERVED_TASKS)


def group_of_table(source: str, table: str) -> str:
    """The group of a source table, within that of its source."""
    return accepted(table, f"source.{source}.{table}", LONGEST_GROUP, RESERVED_TASKS)


def variable_of_table(source: str, table: str) -> str:
    """Key of the Airflow Variable that shows a table's watermark."""
    key = f"watermark__{source}__{table}"
    return key if _PLAIN.fullmatch(key) else hashed(key, f"source.{source}.{table}", 250)
