"""The shape of a source table as the ledger keeps it, and what changed in it that no row's cursor shows."""

from __future__ import annotations

import re
from typing import Any

from psycopg import sql
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import dict_row

from include.postgres.catalog import Column
from include.postgres.sessions import Connection, relation_text
from include.schema.proof import FIRST_OWN, functions_in, origin
from include.schema.rows import in_window
from include.sources import TableSpec
from include.sql import statement
from include.state.messages import Window, digest

LABEL = re.compile(r"^label (\d+) (.*)$", re.MULTILINE)
"""How a shape writes an enum's label with its number in pg_enum (made_of.sql)."""


def shape_of(source: Connection, spec: TableSpec, columns: tuple[Column, ...]) -> dict[str, Any]:
    """What the ledger keeps of a source table, as JSON."""
    values = {"relation": relation_text(spec.schema_name, spec.identifier)}
    made_of: dict[str, Any] = {"made_of": {}, "beneath": {}, "views": {}, "trees": []}
    with source.cursor(row_factory=dict_row) as cursor:
        relation = cursor.execute(statement("shape"), values).fetchone()
        assert relation is not None
        if relation.pop("is_made"):
            made_of = cursor.execute(statement("made_of"), values).fetchone() or made_of
    called = functions_in(source, " ".join(made_of.pop("trees")), least=FIRST_OWN)
    functions = {each.signature: each.digest for each in called if each.is_own}
    described = {column.name: [column.number, column.declared_type, column.is_not_null] for column in columns}
    return {**relation, **made_of, "functions": functions, "columns": described, "entry": spec.reading}


def fixed(shape: dict[str, Any]) -> str:
    """Digest of what of a shape has to be the same while a table is read: not its files, which a TRUNCATE changes."""
    return digest({name: value for name, value in shape.items() if name not in ("files", "changed_by")})


def renamed_labels(last: dict[str, Any], shape: dict[str, Any]) -> dict[str, str]:
    """The enum labels that have another name than in the last shape, and the one they had there."""
    before, now = (
        dict(LABEL.findall("\n".join(part for parts in made_of.values() for part in parts)))
        for made_of in ({**each.get("made_of", {}), **each.get("beneath", {})} for each in (last, shape))
    )
    return {name: before[number] for number, name in now.items() if before.get(number, name) != name}


def rewritten(last: dict[str, Any], shape: dict[str, Any], raw: tuple[Column, ...]) -> list[str]:
    """What of the table has other values now, in rows whose cursor says nothing of it."""
    held = {column.name for column in raw}
    before, now = last["columns"], shape["columns"]
    changes = []
    for name, each in now.items():
        # Another column of an old name, or another type: PostgreSQL wrote all of its values anew.
        if name in before and (
            each[:2] != before[name][:2] or lost(last, shape, name) or _in_new_files(last, shape, name)
        ):
            changes.append(f"column {name!r} was rewritten")
        elif name not in before and name in held:
            changes.append(f"column {name!r} is new, and raw has one of its name")
    changes += [
        f"what {name} is made of was changed"
        for name, parts in last.get("beneath", {}).items()
        if set(parts) - set(shape["beneath"].get(name, parts))
    ]
    functions = last.get("functions", {})
    changes += [
        f"function {name} was replaced"
        for name, each in shape["functions"].items()
        if each != functions.get(name, each)
    ]
    views = last.get("views", {})
    changes += [f"column {name!r} was dropped from raw" for name in dropped_from_raw(last, shape, raw)]
    return changes + [
        f"view {name} was replaced" for name, text in shape["views"].items() if text != views.get(name, text)
    ]


def _in_new_files(last: dict[str, Any], shape: dict[str, Any], name: str) -> bool:
    """Whether a column's entry and the table's files changed, as by `alter column … type` to the type that it has.

    VACUUM FULL or TRUNCATE give other files alone, a default or a NOT NULL another entry.
    """
    changed_by = last.get("changed_by", {}).get(name)
    is_touched = changed_by is not None and changed_by != shape["changed_by"].get(name)
    return is_touched and last["files"] != shape["files"]


def dropped_from_raw(last: dict[str, Any], shape: dict[str, Any], raw: tuple[Column, ...]) -> list[str]:
    """Columns that were loaded, that the source still has, and that a person took out of raw."""
    held = {column.name for column in raw}
    return [name for name in shape["columns"] if name in last["columns"] and name not in held]


def lost(last: dict[str, Any], shape: dict[str, Any], name: str) -> set[str]:
    """What a column's values were made of and no longer are: a label, an attribute, an expression, the type itself."""
    return set(last.get("made_of", {}).get(name, ())) - set(shape["made_of"].get(name, ()))


def other_entry(last: dict[str, Any], shape: dict[str, Any]) -> list[str]:
    entry = shape["entry"]
    changed = [name for name, value in ({"where": None} | last.get("entry", entry)).items() if value != entry[name]]
    return [f"`{name}` changed in its source entry" for name in changed]


def attached(
    source: Connection, spec: TableSpec, last: dict[str, Any], shape: dict[str, Any], window: Window
) -> list[str]:
    """Partitions that came with rows of before the window."""
    known, before = last.get("partitions", shape["partitions"]), last.get("attached_by", {})
    # One that was detached and attached again may have been filled in between.
    again = {int(part) for part, by in shape["attached_by"].items() if by != before.get(part, by)}
    new = sorted(set(shape["partitions"]) - set(known) | again)
    if not new:
        return []
    if shape["views"]:
        cursor = origin(source, spec.schema_name, spec.identifier, spec.cursor).cursor
        if cursor is None:  # nothing goes by a cursor here: whole rows are compared
            return []
        spec = spec.model_copy(update={"cursor": cursor})
    names = source.execute("select oid::regclass::text from unnest(%s::oid[]) as oid", (new,)).fetchall()
    return [
        f"partition {name} was attached with older rows"
        for (name,) in names
        if _has_rows_before(source, spec, name, window)
    ]


def _has_rows_before(source: Connection, spec: TableSpec, partition: str, window: Window) -> bool:
    before = sql.SQL("({}) is not true").format(in_window(spec, window))
    query = sql.SQL("select exists (select from only {} where {})").format(sql.SQL(partition), before)  # a regclass
    try:
        with source.transaction():
            row = source.execute(query).fetchone()
    except InsufficientPrivilege:  # granted on the table alone
        return True
    return bool(row and row[0])
