"""The oracle: what has to be true of source, raw, ledger and Variables, asked as superuser of both servers.

Rows are compared as the bytes of their COPY text: `except` calls -0 and 0, 1.0 and 1.000 equal, and hides duplicates.
Every function returns what is wrong, as sentences; an empty list is the hope.
"""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from include.local.databases import WAREHOUSE
from include.postgres.catalog import columns_of
from include.postgres.sessions import pin
from include.sources import TableSpec
from tests.drill.world import SOURCE, World

KEY = "pair || '/' || half"
LIVE = "_deleted_at is null"
AS_EXTRACTED = {"unsalted_hash": """encode(sha256(convert_to("{}", 'UTF8')), 'hex')"""}
BROKEN_PAIRS = """
    select array_agg(pair) from (
        select pair from {} where {} group by pair having count(*) <> 2 or sum(amount) <> 0
    ) as broken"""


def copy_rows(connection: psycopg.Connection, relation: sql.Composable, columns: str, where: str) -> list[bytes]:
    """Rows of a relation as COPY text under the pinned settings, sorted as bytes."""
    query = f"copy (select {columns} from {{}} where {where}) to stdout"
    with connection.transaction():
        # COPY takes its snapshot, then waits for the lock: behind a column that is being widened it would see no row.
        connection.execute(sql.SQL("lock table {} in access share mode").format(relation))
        with connection.cursor().copy(sql.SQL(query).format(relation)) as copy:
            return sorted(b"".join(bytes(block) for block in copy).splitlines(keepends=True))


def versions(world: World, side: str, specs: list[TableSpec]) -> dict[str, dict[bytes, int]]:
    """The version of every live row, by table and key. A raw table that does not exist has none."""

    def read(connection: psycopg.Connection) -> dict[str, dict[bytes, int]]:
        found: dict[str, dict[bytes, int]] = {}
        for spec in specs:
            schema, where = ("public", spec.where or "true") if side == SOURCE else (spec.raw_schema, LIVE)
            exists = connection.execute("select to_regclass(%s)", (f"{schema}.{spec.table}",)).fetchone()
            relation = sql.Identifier(schema, spec.table)
            rows = copy_rows(connection, relation, f"{KEY}, version", where) if exists and exists[0] else []
            found[spec.table] = {key: int(version) for key, version in (row.split(b"\t") for row in rows)}
        return found

    return world.ask(side, read)


def lost_rows(table: str, promised: dict[bytes, int], source: dict[bytes, int], raw: dict[bytes, int]) -> list[str]:
    """Rows that were committed before a run began, still live, and are older or missing in raw."""
    lost = [key for key, version in promised.items() if key in source and raw.get(key, -1) < version]
    if not lost:
        return []
    key = lost[0]
    return [
        f"a green run lost {len(lost)} rows of {table}: {key.decode()} was committed as version {promised[key]} "
        f"before the run began, and raw has {raw.get(key, 'no such row')}"
    ]


def marks(world: World, spec: TableSpec, raised: str | None) -> list[str]:
    """The ledger's mark never goes back, and the Variable is never above it, unless a person raised it."""

    def read(connection: psycopg.Connection) -> list[datetime]:
        query = "select mark from _elt.load_ledger where table_name = %s and mark is not null order by load_id"
        with suppress(psycopg.errors.UndefinedTable):
            return [mark for (mark,) in connection.execute(query, (spec.table,))]
        return []

    # The Variable first: a load that ends in between can only raise the ledger.
    variable = world.store.get(spec.watermark_key)
    ledger = world.ask(WAREHOUSE, read)
    return mark_problems(spec.table, variable, ledger, raised)


def mark_problems(table: str, variable: str | None, ledger: list[datetime], raised: str | None) -> list[str]:
    problems = []
    if ledger != sorted(ledger):
        problems.append(f"the mark of {table} went back: {[mark.isoformat() for mark in ledger]}")
    if variable not in (None, raised) and (not ledger or datetime.fromisoformat(variable) > ledger[-1]):
        newest = ledger[-1].isoformat() if ledger else "nothing"
        problems.append(f"the Variable of {table} is {variable}, above the ledger's {newest}")
    return problems


def references(world: World) -> list[str]:
    """Every order that an item names is in raw."""
    query = """
        select array_agg(parent) from raw_shop.items
        where parent is not null and parent not in (select pair from raw_shop.orders)"""
    missing = world.ask(WAREHOUSE, lambda connection: connection.execute(query).fetchone())
    return [f"raw has items of orders it does not have: {missing[0][:5]}"] if missing and missing[0] else []


def regressions(world: World) -> list[str]:
    """Rows that a load replaced by an older version, noted by the trigger on raw."""
    rows = world.ask(WAREHOUSE, lambda connection: connection.execute("select * from drill.regressions").fetchall())
    return (
        [f"a row of {rows[0][0]} went back from {rows[0][1]} to {rows[0][2]} ({len(rows)} such rows)"] if rows else []
    )


def phantoms(spec: TableSpec, lost: set[bytes], source: dict[bytes, int], raw: dict[bytes, int]) -> list[str]:
    """Rows that the source has lost, with the transactions that had inserted them, and raw still shows."""
    kept = (lost & raw.keys()) - source.keys()
    return (
        [f"raw shows {len(kept)} rows of {spec.table} that the source had lost: {min(kept).decode()}"] if kept else []
    )


def forget_regressions(world: World) -> None:
    """After raw has followed a source that went back."""
    world.ask(WAREHOUSE, lambda connection: connection.execute("truncate drill.regressions"))


def at_quiescence(world: World, specs: list[TableSpec]) -> list[str]:
    """Nothing writes, nothing runs, a last run has ended: raw equals source, and nothing is left lying about."""
    problems = regressions(world)
    for spec in specs:
        columns = world.ask(SOURCE, lambda connection: columns_of(connection, "public", spec.table))
        names = [column.name for column in columns if spec.columns.get(column.name) != "omit"]
        dumps = []
        for side, relation, form, where in (
            (SOURCE, sql.Identifier("public", spec.table), AS_EXTRACTED, spec.where or "true"),
            (WAREHOUSE, sql.Identifier(spec.raw_schema, spec.table), {}, LIVE),
        ):
            selected = ", ".join(form.get(spec.columns.get(name), '"{}"').format(name) for name in names)
            dumps.append(world.ask(side, lambda connection: _dump(connection, relation, selected, where)))
        problems += differences(spec, *dumps)
    return problems + leftovers(world)


def _dump(connection: psycopg.Connection, relation: sql.Composable, columns: str, where: str) -> list[bytes]:
    return copy_rows(pin(connection, read_only=True), relation, columns, where)


def differences(spec: TableSpec, source: list[bytes], raw: list[bytes]) -> list[str]:
    """Compare two dumps whose first columns are the key. Rows deleted in the source may stay if deletes are ignored."""
    if spec.key:
        keys = [_key(spec, row) for row in raw]
        if len(set(keys)) < len(keys):
            return [f"{spec.table}: raw has a key twice"]
        if spec.deletes == "ignore":
            living = {_key(spec, row) for row in source}
            raw = [row for row, key in zip(raw, keys) if key in living]
    if b"".join(source) == b"".join(raw):
        return []
    missing, extra = [row for row in source if row not in set(raw)], [row for row in raw if row not in set(source)]
    return [
        f"{spec.table}: {len(missing)} of {len(source)} rows of the source are not in raw, {len(extra)} of raw not in "
        f"the source; the first: {(missing or [b''])[0]!r} and {(extra or [b''])[0]!r}"
    ]


def _key(spec: TableSpec, row: bytes) -> bytes:
    return b"\t".join(row.split(b"\t")[: len(spec.key)])


def leftovers(world: World) -> list[str]:
    """Staging tables and extractions that nobody will load."""
    query = """
        select relname::text from pg_class where relnamespace = '_elt'::regnamespace and relname like 'staging%'
        union all select 'extraction ' || extraction_id from _elt.extraction"""
    rows: list[Any] = world.ask(WAREHOUSE, lambda connection: connection.execute(query).fetchall())
    return [f"left in _elt after a quiet run: {', '.join(row[0] for row in rows)}"] if rows else []


def watch(world: World, specs: list[TableSpec], report: Path, looks: Any) -> None:
    """The body of a process that reads raw all the time: no reader may ever see half of a load.

    A load brings one snapshot of the source, in which pairs add up, unless its table was read in ranges or in part.
    """
    going = True
    specs = [spec for spec in specs if not spec.rows_per_range and not spec.where]

    def stop(*_: object) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, stop)
    while going:
        with suppress(psycopg.OperationalError), world.admin(WAREHOUSE) as connection:
            while going:
                for spec in specs:
                    with suppress(psycopg.errors.UndefinedTable):
                        relation = sql.Identifier(spec.raw_schema, spec.table)
                        query = sql.SQL(BROKEN_PAIRS).format(relation, sql.SQL(LIVE))
                        row = connection.execute(query).fetchone()
                        looks.value += 1
                        if row and row[0]:
                            report.open("a").write(f"raw.{spec.table} was seen half-loaded: pairs {row[0][:5]}\n")
                    time.sleep(0.02)
        time.sleep(0.05)
