"""A staging model: raw's columns under names of their own, each value as raw has it.

Nothing is cast: raw has the types, and a cast to what the source declared one day would cut what it holds the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from include.onboard.names import free, in_model, slug
from include.onboard.shape import Column, Table

GENERIC = {"id", "name", "status", "type", "code", "description", "created_at", "updated_at"}
"""Names that say nothing without their table."""

OWN = ("is_deleted", "loaded_at", "deleted_at")
"""Columns that staging models add."""

GROUPS = ("ids", "strings", "numerics", "booleans", "times")
_GROUP_OF_CATEGORY = {"N": "numerics", "B": "booleans", "D": "times", "T": "times"}

_WIDTH = 120 - len("        ,")
_BROKEN = "\n            as "
_ADDED = ("_deleted_at is not null", "_loaded_at")
_GROUP = re.compile(r"        -- (\w+)$")
_COLUMN = re.compile(r"        (?P<expression>.+?)(?: as (?P<name>\w+))?,$")


@dataclass(frozen=True)
class Staged:
    """A column of a staging model; `expression` as its file has it."""

    group: str
    expression: str
    name: str

    def __str__(self) -> str:
        if self.expression == self.name:
            return self.name
        one = f"{self.expression} as {self.name}"
        return one if len(one) <= _WIDTH else f"{self.expression}{_BROKEN}{self.name}"


def staged(table: Table, reserved: set[str], before: Iterable[Staged] = ()) -> list[Staged]:
    """The columns of a table's staging model: those that it has keep their names, new ones get one that is free.

    Args:
        reserved: Words that are no plain names of columns: `user` would be `current_user` to whoever reads it.
        before: The model's columns so far.
    """
    kept = list(before)
    known = {each.expression for each in kept}
    taken = {each.name for each in kept} | reserved | set(OWN)
    new = [each for each in table.loaded if in_model(each.quoted) not in known]
    # Columns that are called in the source as in staging come first, so that nothing else is called like them.
    named = {
        each.name: free(_names(table, each), taken, each.name)
        for each in sorted(new, key=lambda each: each.name != _names(table, each)[0])
    }
    return kept + [Staged(_group(table, each), in_model(each.quoted), named[each.name]) for each in new]


def _names(table: Table, column: Column) -> list[str]:
    """What a column could be called; generic names get the entity before them."""
    plain = slug(column.name)
    names = [plain, f"{table.entity}_{plain}"]
    return names[::-1] if plain in GENERIC else names


def _group(table: Table, column: Column) -> str:
    is_foreign = any(column.name in each.columns for each in table.foreign_keys)
    is_id = column.name in table.key or is_foreign or slug(column.name).endswith("_id")
    is_of_text = column.is_text or column.category not in _GROUP_OF_CATEGORY
    return "ids" if is_id else "strings" if is_of_text else _GROUP_OF_CATEGORY[column.category]


def model_text(source: str, table: str, columns: Iterable[Staged]) -> str:
    """The model's file."""
    grouped: Mapping[str, list[str]] = {group: [] for group in GROUPS}
    for column in columns:
        grouped[column.group].append(f"        {column},\n")
    grouped["booleans"].append("        _deleted_at is not null as is_deleted,\n")
    grouped["times"].append("        _loaded_at as loaded_at,\n        _deleted_at as deleted_at\n")
    selected = "\n".join(f"        -- {group}\n{''.join(lines)}" for group, lines in grouped.items() if lines)
    return (
        f'with source as (\n    select * from {{{{ source("{source}", "{table}") }}}}\n),\n\n'
        f"renamed as (\n    select\n{selected}    from source\n)\n\nselect * from renamed\n"
    )


def columns_of_model(text: str, source: str, table: str) -> list[Staged] | None:
    """The columns of a model as `model_text` would write it; None where a person wrote something else into it."""
    columns, group = [], ""
    for line in text.replace(_BROKEN, " as ").splitlines():
        if heading := _GROUP.match(line):
            group = heading[1]
        elif (found := _COLUMN.match(line)) and group in GROUPS and found["expression"] not in _ADDED:
            columns.append(Staged(group, found["expression"], found["name"] or found["expression"]))
    return columns if model_text(source, table, columns) == text else None
