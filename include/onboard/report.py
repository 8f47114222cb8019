"""What `make onboard` tells: a summary that fits a screen, and a file of all that a person may want to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from include.onboard.choose import Choice
from include.onboard.grants import Reader
from include.onboard.shape import Table
from include.onboard.write import Written

SHOWN = 8
"""So many tables are told of on the screen; the file has all."""

COSTLY, COSTLY_BYTES = 5, 100_000_000
"""So many of the largest tables are named with what would spare reading them, if they are as large as that."""


def details(choice: Choice, made: Written, gone: Sequence[str], root: Path) -> str:
    """Everything, one table after another."""
    lines = [f"writes {path.relative_to(root)}" for path in made.files]
    for table in choice.tables:
        said = [*made.said.get(table.name, ()), *table.remarks]
        lines += [
            "",
            f"{table.source}.{table.name}  ({table.relation}): {_how(table)}",
            *(f"  - {each}" for each in said),
        ]
    if choice.left_out:
        lines += ["", "Left out", *(f"  - {name}: {why}" for name, why in choice.left_out.items())]
    if gone:
        lines += ["", "Gone from the source", *(f"  - {name}" for name in gone)]
    return "\n".join(lines) + "\n"


def summary(choice: Choice, made: Written, gone: Sequence[str], reader: Reader) -> str:
    """The same, counted."""
    tables = choice.tables
    new = [table for table in tables if table.name in made.models]
    lines = [
        f"{len(tables)} tables, of which {len(new)} have a new or changed staging model",
        f"  {sum(table.cursor is not None for table in tables)} read from a cursor on",
        *(f"  {count} read whole in every run: {why}" for why, count in Counter(_whole(tables)).most_common()),
        f"  rows deleted in the source are marked in {sum(bool(table.key) for table in tables)} (deletes: soft), and "
        f"vanish with the rest of what is replaced in {sum(not table.key for table in tables)}",
    ]
    unkept = sum(table.cursor is not None and not table.cursor.is_kept for table in tables)
    if unkept:
        lines.append(
            f"  {unkept} have a cursor that no trigger keeps: an update that leaves it alone is found by the weekly "
            "DAG `reconcile` alone"
        )
    if reader.why:
        lines.append(
            f"{reader.why}: it is not changed; the grants are for {reader.name}, a role that only reads: run them, and "
            "name it in the connection"
        )
    if costly := [table for table in sorted(tables, key=lambda table: -table.bytes) if table.bytes >= COSTLY_BYTES][
        :COSTLY
    ]:
        lines.append("every run scans most of:")
        lines += [
            f"  {table.schema}.{table.identifier}, {table.bytes / 1e6:,.0f} MB: {_spared_by(table)}" for table in costly
        ]
    unread = [table for table in tables if not table.is_readable]
    if unread:
        lines.append(f"{len(unread)} may not be read yet: run the grants on the source before the first run")
    if choice.left_out:
        lines.append(f"{len(choice.left_out)} left out:")
        reasons = Counter(choice.left_out.values())
        for why, count in reasons.most_common(SHOWN):
            names = [name for name, other in choice.left_out.items() if other == why]
            lines.append(f"  {', '.join(names[:3])}{f' and {count - 3} more' if count > 3 else ''}: {why}")
        if len(reasons) > SHOWN:
            lines.append(f"  and {len(reasons) - SHOWN} more reasons")
    lines += [f"gone from the source: {name}; its raw table and models stay until you remove them" for name in gone]
    changed = [f"{name}: {text}" for name, texts in made.said.items() for text in texts]
    lines += changed[:SHOWN] + ([f"and {len(changed) - SHOWN} more changes"] if len(changed) > SHOWN else [])
    return "\n".join(lines)


def _spared_by(table: Table) -> str:
    """What would have a run read less of a table."""
    if not table.key:
        return "give it a primary key, then onboard again"
    if table.filled_elsewhere:
        return "it is filled elsewhere: a DAG of its own may load it less often (docs/parts.md)"
    if table.cursor is None and table.has_zoneless_stamp:
        return "CURSOR_ZONE=UTC, if its stamps without time zone are that"
    if table.cursor is None:
        return "give it a column `updated_at timestamptz` that a trigger keeps, and an index on it; then onboard again"
    index = "" if table.cursor.name in table.indexed else f", and an index on {table.cursor.name}"
    return f"`deletes: ignore` in its entry, if no row is ever deleted{index}"


def _how(table: Table) -> str:
    return ", ".join(f"{option}: {value}" for option, value in table.extract.items() if option != "identifier")


def _whole(tables: Sequence[Table]) -> list[str]:
    """Why tables are read whole, one reason for each that is."""
    return [_why(table) for table in tables if table.cursor is None]


def _why(table: Table) -> str:
    if not table.key:
        return "no key"
    if table.filled_elsewhere:
        return "filled elsewhere"
    return "a stamp without time zone; CURSOR_ZONE=UTC if it is that" if table.has_zoneless_stamp else "no cursor"
