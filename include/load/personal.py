"""Columns that a source entry leaves out or hashes after they were loaded: no clear value stays unnoticed.

Raw is rewritten by the load that first reads all of the table under the new entry. What dbt has stored of the values is
not the loader's: digests of them are kept until a look at everything that dbt's role owns finds none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql

from include.load.merge import Load, not_newer
from include.postgres.sessions import Connection
from include.sources import TableSpec
from include.sql import statement

SHORTEST = 4
"""Characters of a value that is looked for: shorter ones are everywhere, and tell nobody apart."""

DIGEST = sql.SQL("encode(sha256(convert_to({}::text, 'UTF8')), 'hex')")


@dataclass(frozen=True)
class Found:
    """A column that holds values which are looked for."""

    schema: str
    table: str
    column: str
    rows: int

    @property
    def relation(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.table)

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}.{self.column} ({self.rows:,} row{'s' * (self.rows != 1)})"


def note_clear_values(connection: Connection, load: Load, held: Iterable[str]) -> None:
    """Before the merge: keep digests of what raw holds in clear, and its entry no longer lets in."""
    query = sql.SQL(
        "insert into _elt.cleared (source, table_name, column_name, digest) select {}, {}, {}, {} from {} as old "
        "where {} and length({}::text) >= {} on conflict do nothing"
    )
    for name in _closed(load, held):
        column = sql.SQL("old.{}").format(sql.Identifier(name))
        place = (sql.Literal(load.spec.source), sql.Literal(load.spec.table), sql.Literal(name))
        clear = _is_clear(load.spec, name)
        composed = query.format(*place, DIGEST.format(column), load.raw, clear, column, sql.Literal(SHORTEST))
        connection.execute(composed)


def clear(connection: Connection, load: Load, held: Iterable[str], newer: Sequence[object]) -> int:
    """After the merge: empty what is left in clear, of rows that are gone from the source for one. Returns rows.

    The salt stays with the source, so such a value cannot be hashed here. A row whose key is in clear goes.
    """
    changed = 0
    stamped = sql.SQL(
        "update {raw} as old set {column} = null, _loaded_at = case when {not_newer} then {loaded_at} "
        "else old._loaded_at end, _run_id = {run_id} where {clear}"
    )
    for name in _closed(load, held):
        query = sql.SQL("delete from {raw} as old where {clear}") if name in load.spec.key else stamped
        changed += connection.execute(
            query.format(
                raw=load.raw,
                column=sql.Identifier(name),
                not_newer=not_newer(list(newer)),  # type: ignore[arg-type]
                loaded_at=sql.Literal(load.loaded_at),
                run_id=sql.Literal(load.batch.run_id),
                clear=_is_clear(load.spec, name),
            )
        ).rowcount
    return changed


def awaited(loader: Connection) -> list[str]:
    """Digests of values that may be stored below raw yet."""
    row = loader.execute("select to_regclass('_elt.cleared') is not null").fetchone()
    return [each for (each,) in loader.execute("select distinct digest from _elt.cleared")] if row and row[0] else []


def holders(connection: Connection, digests: Sequence[str], *, with_raw: bool = False) -> list[Found]:
    """Where the tables of a role hold values of these digests, whole; transformed ones are not recognised.

    Args:
        connection: A session of the role whose tables are looked through.
        digests: sha256, in hex, of the values' text.
        with_raw: Whether raw is looked through as well.
    """
    found = []
    for schema, table, column in connection.execute(statement("text_columns"), {"with_raw": with_raw}).fetchall():
        query = sql.SQL("select count(*) from {} where {} = any(%s)")
        composed = query.format(sql.Identifier(schema, table), DIGEST.format(sql.Identifier(column)))
        row = connection.execute(composed, (list(digests),)).fetchone()
        if row and row[0]:
            found.append(Found(schema, table, column, row[0]))
    return found


def refusal(found: Sequence[Found]) -> str:
    """What a run says where values are left."""
    empty = sql.SQL("update {} set {} = null where {} in (select digest from _elt.cleared)")
    statements = [
        empty.format(each.relation, column, DIGEST.format(column)).as_string()
        for each in found
        for column in [sql.Identifier(each.column)]
    ]
    return (
        f"values that no longer enter raw are still in {', '.join(map(str, found))}; run in the warehouse, as its "
        f"administrator (`make psql`): {'; '.join(statements)}; analyze; vacuum full; then clear this task"
    )


def forget(loader: Connection, digests: Sequence[str]) -> None:
    """The values were looked for and are nowhere."""
    loader.execute("delete from _elt.cleared where digest = any(%s)", (list(digests),))


def _closed(load: Load, held: Iterable[str]) -> list[str]:
    """Columns of raw that the entry leaves out or hashes, where all of the table was read by it."""
    if not load.batch.window.reads_all:
        return []
    return [name for name in held if load.spec.columns.get(name, "text") != "text"]


def _is_clear(spec: TableSpec, name: str) -> sql.Composed:
    column = sql.Identifier(name)
    if spec.columns[name] == "omit":
        return sql.SQL("old.{} is not null").format(column)
    return sql.SQL("old.{}::text !~ '^[0-9a-f]{{64}}$'").format(column)
