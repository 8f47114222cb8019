"""Find what a cursor does not show: rows that are gone, whose key changed, or that came back with an older cursor."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from include.postgres.buckets import WHOLE, Buckets, Side, compare
from include.postgres.catalog import Column, columns_of, same_key
from include.postgres.sessions import Connection, identifiers
from include.schema.rows import rows_of
from include.sources import TableSpec


def differing_buckets(
    source: Connection,
    warehouse: Connection,
    spec: TableSpec,
    columns: tuple[Column, ...],
    content: Sequence[str],
    staging: sql.Identifier,
) -> Buckets:
    """The buckets in which some columns of the source are not what raw will have after this load.

    A key that changed shows like a row deleted and one inserted; a table that was truncated and loaded again shows
    whichever cursors its rows came back with. Where more than half of the buckets differ, all of them are returned.

    Args:
        source: In the snapshot that the window was read in.
        warehouse: In the transaction that staged the window.
        spec: An incremental table.
        columns: Of the source.
        content: Names of what is compared: the key and the cursor, unless more may have changed.
        staging: Where the window's rows are.
    """
    if not set(content) <= {column.name for column in columns_of(warehouse, spec.raw_schema, spec.table)}:
        return WHOLE
    ours = Side(source, rows_of(spec, columns))
    theirs = Side(warehouse, _raw_after_load(warehouse, spec, tuple(content), staging))
    found = compare(ours, theirs, spec.key, content).differing
    return WHOLE if 2 * len(found.numbers) > found.count else found


def _raw_after_load(
    warehouse: Connection, spec: TableSpec, columns: tuple[str, ...], staging: sql.Identifier
) -> sql.Composed:
    """Living rows of raw under what is staged."""
    return sql.SQL(
        """
        select {columns} from {staging}
        union all
        select {columns} from {raw} as old
        where old._deleted_at is null
            and not exists (select 1 from {staging} as new where {same_key})
    """
    ).format(
        columns=identifiers(columns),
        staging=staging,
        raw=sql.Identifier(spec.raw_schema, spec.table),
        same_key=same_key(warehouse, spec),
    )
