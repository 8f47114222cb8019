"""Bring a raw table to what a staged batch shows, changing only the rows that differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from include.errors import TerminalError
from include.postgres.buckets import Buckets, digest_of
from include.postgres.catalog import Column, estimated_rows, same_key
from include.postgres.sessions import Connection, identifiers, relation_text
from include.sources import TableSpec
from include.state import extractions
from include.state.messages import Batch

SMALL_SHARE = 0.1
"""Of raw's rows, below which a batch is small: its rows are looked up in the key, and few columns analysed after it.
Autovacuum analyses the others from the same share on, by default."""


@dataclass(frozen=True)
class Load:
    """What one publish works on: a batch, the columns it staged and the instant its rows are stamped with.

    Of a table in ranges, `batch` is all of them at the place of the oldest snapshot; `newest` has the newest.
    """

    spec: TableSpec
    batch: Batch
    newest: Batch
    columns: tuple[Column, ...]
    loaded_at: datetime

    @property
    def raw(self) -> sql.Identifier:
        return sql.Identifier(self.spec.raw_schema, self.spec.table)

    @property
    def staging(self) -> sql.Identifier:
        return extractions.staging_table(self.batch.extraction_id)

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]


@dataclass(frozen=True)
class Counts:
    """Rows a publish changed."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0


def upsert(connection: Connection, load: Load, newer: list[datetime]) -> Counts:
    """Insert what is new and update what differs. Unlike `on conflict`, MERGE locks and logs no row that it leaves.

    Columns that were not staged, a person's own or gone from the source, keep what they hold.
    """
    query = sql.SQL(
        """
        merge into {raw} as old
        using (select * from {staging} order by {key}) as new on {same_key}
        when matched and {differs} then {update}
        when not matched then insert ({columns}, _loaded_at, _run_id) values ({new}, {loaded_at}, {run_id})
    """
    )
    stamps = {"loaded_at": sql.Literal(load.loaded_at), "run_id": sql.Literal(load.batch.run_id)}
    composed = query.format(
        raw=load.raw,
        staging=load.staging,
        key=identifiers(load.spec.key),
        same_key=same_key(connection, load.spec),
        differs=_differs(load, newer),
        update=_update(load, stamps),
        columns=identifiers(load.names),
        new=identifiers(load.names, sql.SQL("new.")),
        **stamps,
    )
    before = _inserted(connection, load)
    with _by_index(connection, load):
        written = connection.execute(composed).rowcount
    inserted = _inserted(connection, load) - before
    return Counts(inserted, written - inserted)


def soft_delete(connection: Connection, load: Load, held: Buckets, newer: list[datetime]) -> int:
    """Mark rows of buckets that were read whole, and in which the read did not find them.

    Where deletes are ignored, only what a load may have brought that the source has lost since.
    """
    query = sql.SQL(
        """
        update {raw} as old set _deleted_at = {loaded_at}, _loaded_at = {loaded_at}, _run_id = {run_id}
        where old._deleted_at is null and {not_newer} and {since} and {in_buckets}
            and not exists (select 1 from {staging} as new where {same_key})
    """
    )
    return connection.execute(
        query.format(
            raw=load.raw,
            loaded_at=sql.Literal(load.loaded_at),
            run_id=sql.Literal(load.batch.run_id),
            not_newer=not_newer(newer),
            since=sql.SQL("true") if load.spec.deletes == "soft" else _since(load.batch.lost_since),
            in_buckets=held.condition(identifiers(load.spec.key, sql.SQL("old."))),
            staging=load.staging,
            same_key=same_key(connection, load.spec),
        )
    ).rowcount


def replace_all(connection: Connection, load: Load) -> Counts:
    """A table without a key: what was not staged goes, and what raw lacks comes; of equal rows, as many as there are.

    A row that stays keeps what its other columns hold. DELETE, because TRUNCATE blocks readers.

    Raises:
        TerminalError: not all rows were read.
    """
    if not load.batch.window.reads_all:
        raise TerminalError(
            f"{load.spec.name}: a part was read of a table without a key, and would take the place of all of it; "
            f"clear the table's {load.spec.first_task} task, which reads it whole"
        )
    delete = sql.SQL("delete from {} where ctid in ({})")
    deleted = connection.execute(delete.format(load.raw, _not_in(load, load.raw, load.staging))).rowcount
    insert = sql.SQL(
        "insert into {raw} ({columns}, _loaded_at, _run_id) "
        "select {columns}, {loaded_at}, {run_id} from {staging} where ctid in ({lacking})"
    )
    query = insert.format(
        raw=load.raw,
        columns=identifiers(load.names),
        loaded_at=sql.Literal(load.loaded_at),
        run_id=sql.Literal(load.batch.run_id),
        staging=load.staging,
        lacking=_not_in(load, load.staging, load.raw),
    )
    return Counts(inserted=connection.execute(query).rowcount, deleted=deleted)


def _not_in(load: Load, these: sql.Identifier, those: sql.Identifier) -> sql.Composed:
    """The places (ctid) of rows of one table that the other lacks; the second of two equal rows needs a second one."""
    digest = digest_of(identifiers(load.names))
    numbered = sql.SQL("(select ctid, {0} as digest, row_number() over (partition by {0}) as number from {1})")
    return sql.SQL(
        "select these.ctid from {} as these where not exists "
        "(select from {} as those where these.digest = those.digest and these.number = those.number)"
    ).format(numbered.format(digest, these), numbered.format(digest, those))


def refuse_known_keys(connection: Connection, load: Load, newer: list[datetime], filled: Sequence[str]) -> None:
    """Refuse a batch of an append table that has other content for a key of raw.

    Args:
        connection: In the load's transaction.
        load: Not of all rows, which are followed. A row that its source lost is no longer known.
        newer: Stamps of rows that newer snapshots brought: theirs count.
        filled: Columns that raw got after its first rows: NULL there is no content.

    Raises:
        TerminalError: names such a key.
    """
    known = [
        sql.SQL("coalesce(old.{0}, new.{0})" if name in filled else "old.{0}").format(sql.Identifier(name))
        for name in load.names
    ]
    query = sql.SQL(
        """
        select row({key})::text, count(*) over () from {staging} as new join {raw} as old on {same_key}
        where row({known})::record *<> row({new})::record and old._deleted_at is null and {not_newer}
        order by new.{first} limit 1
    """
    ).format(
        key=identifiers(load.spec.key, sql.SQL("new.")),
        first=sql.Identifier(load.spec.cursor or load.spec.key[0]),
        staging=load.staging,
        raw=load.raw,
        same_key=same_key(connection, load.spec),
        known=sql.SQL(", ").join(known),
        new=identifiers(load.names, sql.SQL("new.")),
        not_newer=not_newer(newer),
    )
    with _by_index(connection, load):
        row = connection.execute(query).fetchone()
    if row:
        conf = f'{{"tables": ["{load.spec.name}"], "full_refresh": true}}'
        others = f" and {row[1] - 1:,} more have" if row[1] > 1 else " has"
        raise TerminalError(
            f"{load.spec.name}: `mode: append`, and key {row[0]}{others} other content than in raw: its source changes "
            "rows, or uses keys again; declare `mode: incremental`, or read it whole once: "
            f"airflow dags trigger elt_pipeline --conf '{conf}'"
        )


def _inserted(connection: Connection, load: Load) -> int:
    """Rows this transaction has inserted in raw: the command tag of MERGE adds inserts and updates up."""
    relation = relation_text(load.spec.raw_schema, load.spec.table)
    row = connection.execute("select pg_stat_get_xact_tuples_inserted(to_regclass(%s))", (relation,)).fetchone()
    assert row is not None
    return row[0]


def _differs(load: Load, newer: list[datetime]) -> sql.Composable:
    """Whether the old row has to become the new one. `*<>` compares stored bytes: 1.0 and 1.00, 0 and -0 differ."""
    return sql.SQL("(row({})::record *<> row({})::record or old._deleted_at is not null) and {}").format(
        identifiers(load.names, sql.SQL("old.")), identifiers(load.names, sql.SQL("new.")), not_newer(newer)
    )


def _update(load: Load, stamps: dict[str, sql.Literal]) -> sql.Composable:
    # The key too: 1.0 and 1.00, or `a` and `A` of a citext, are one key in different bytes.
    assignments = [sql.SQL("{0} = new.{0}").format(sql.Identifier(name)) for name in load.names]
    stamped = sql.SQL("update set {}, _loaded_at = {loaded_at}, _run_id = {run_id}, _deleted_at = null")
    return stamped.format(sql.SQL(", ").join(assignments), **stamps)


@contextmanager
def _by_index(connection: Connection, load: Load) -> Iterator[None]:
    """Look the rows of a small batch up in the key, one by one, where the planner would rather read raw as a whole.

    It takes each for a page from the disk, although they come in the order of the key.
    """
    whole = estimated_rows(connection, sql.SQL("select from {}").format(load.raw))
    if load.batch.rows_extracted >= SMALL_SHARE * whole:
        yield
        return
    connection.execute("set local enable_hashjoin = off; set local enable_mergejoin = off")
    yield
    connection.execute("set local enable_hashjoin to default; set local enable_mergejoin to default")


def _since(instant: datetime | None) -> sql.Composable:
    return sql.SQL("old._loaded_at >= {}").format(sql.Literal(instant)) if instant else sql.SQL("false")


def not_newer(newer: list[datetime]) -> sql.Composable:
    """Whether the old row was written by none of the loads that read a newer snapshot. Nearly always just `true`."""
    return sql.SQL("old._loaded_at <> all ({})").format(sql.Literal(newer)) if newer else sql.SQL("true")
