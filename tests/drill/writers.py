"""The source's application: processes that write in every way that has cost somebody a row.

Statements are set-based. Every change takes whole pairs (tests/drill/sql/source.sql), so that each snapshot of a table
adds up to zero.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.sharedctypes import SynchronizedArray
from types import FrameType

import psycopg
from psycopg import sql

from include.sources import TableSpec

PAIRS = 600
"""Pairs that a table begins with."""

BLOB_PAIRS = 2200
"""Enough blobs for a staging table that outgrows 16 MB."""

BLOB = "(select string_agg(md5((pair * n + half)::text), '') from generate_series(1, 128) as n)"
"""4 kB that do not compress."""

BENEATH = {"sold": "sold_rows", "rated": "rated_rows"}
"""Views, each with the table that is written."""

WIDER = {"smallint": "integer", "integer": "bigint"}

BERLIN = "-c timezone=Europe/Berlin -c lock_timeout=500ms"
"""`visits` keeps local time: a timestamptz assigned to it is converted by the session's zone."""


RACES = (psycopg.OperationalError, psycopg.errors.DuplicateColumn, psycopg.errors.UndefinedColumn)
"""Cut off, deadlocked, refused a lock, or another writer was faster to change a column."""


def written(spec: TableSpec) -> str:
    """The table that is written, for a view the one beneath it."""
    return BENEATH.get(spec.table, spec.table)


@dataclass
class Writer:
    """One writing session. `changed` counts the rows of its committed transactions."""

    connection: psycopg.Connection
    rng: random.Random
    specs: list[TableSpec]
    changed: int = 0

    def statement(self) -> None:
        """Change a slice of a random table in a way that its mode can follow."""
        spec = self.rng.choice(self.specs)
        if spec.mode == "append":
            self._insert(spec)
        elif spec.table == "blobs":
            self._update(spec, everything=self.rng.random() < 0.1)
        elif spec.table == "rated":  # never deleted: what a view joins shows in no key
            self.rng.choice((self._rate, self._update, self._insert))(spec)
        elif spec.table == "orders":
            self.rng.choices((self._update, self._insert), (4, 1))[0](spec)
        else:
            ways = (self._update, self._insert, self._delete, self._move_keys, self._reload)
            self.rng.choices(ways, (12, 3, 1, 1, 0.5 if self.connection.autocommit else 0))[0](spec)

    def _do(self, query: str, spec: TableSpec, **values: object) -> None:
        identifier = sql.Identifier(written(spec))
        done = self.connection.execute(sql.SQL(query).format(t=identifier), values)
        self.changed += max(done.rowcount, 0)

    def _slice(self) -> dict[str, int]:
        """Which pairs: a range, or a few everywhere."""
        low = self.rng.randrange(PAIRS)
        every, high = self.rng.choice(((1, low + self.rng.randrange(40)), (self.rng.randrange(20, 200), 10**18)))
        return {"low": low if every == 1 else 0, "high": high, "every": every, "rest": low % every}

    def _stamp(self, spec: TableSpec) -> dict[str, object]:
        """The cursor: the transaction's begin, a tie with others, a clock that is off, or nothing."""
        if spec.null_cursor == "always" and self.rng.random() < 0.2:
            return {"skew": None, "tie": "microseconds"}
        off = self.rng.uniform(-2, 1) if spec.overlap.total_seconds() > 2 else 0
        return {"skew": off, "tie": self.rng.choice(("microseconds", "microseconds", "milliseconds"))}

    STAMP = "date_trunc(%(tie)s, now()) + %(skew)s::float8 * interval '1 second'"
    IN_SLICE = "pair between %(low)s and %(high)s and pair %% %(every)s = %(rest)s"

    def _update(self, spec: TableSpec, *, everything: bool = False) -> None:
        query = f"""
            update {{t}} set amount = amount + (1 - 2 * half) * %(by)s, updated_at = {self.STAMP}
            where {"true" if everything else self.IN_SLICE}"""
        self._do(query, spec, by=self.rng.randrange(1, 100), **self._slice(), **self._stamp(spec))

    def _insert(self, spec: TableSpec) -> None:
        with self.connection.transaction():
            if spec.table == "items":  # a new order with its items, as shops do
                self._insert_pairs(next(spec for spec in self.specs if spec.table == "orders"), None)
            self._insert_pairs(spec, "(select max(pair) from orders)" if spec.table == "items" else None)

    def _insert_pairs(self, spec: TableSpec, parent: str | None) -> None:
        query = f"""
            insert into {{t}} (pair, half, parent, amount, body, updated_at)
            select pair, half, {parent or "null"}, (1 - 2 * half) * pair, md5(pair::text), {self.STAMP}
            from (select nextval('pairs') as pair from generate_series(1, %(count)s)) as new
            cross join (values (0), (1)) as halves (half)"""
        self._do(query, spec, count=self.rng.randrange(1, 30), **self._stamp(spec))

    def _rate(self, spec: TableSpec) -> None:
        """Change what a view shows beside the rows that carry its cursor."""
        query = "update rates set rate = 2 + (rate + 1) %% 7 where number = %(number)s"
        self._do(query, spec, number=self.rng.randrange(5))

    def _delete(self, spec: TableSpec) -> None:
        self._do(f"delete from {{t}} where {self.IN_SLICE}", spec, **self._slice())

    def _move_keys(self, spec: TableSpec) -> None:
        query = f"""
            update {{t}} set pair = pair + (select 10000000 * nextval('pairs')), updated_at = {self.STAMP}
            where {self.IN_SLICE}"""
        self._do(query, spec, **self._slice(), **self._stamp(spec))

    def _reload(self, spec: TableSpec) -> None:
        """Truncate and write most of it again, the way exports arrive."""
        with self.connection.transaction():
            self.connection.execute(f"create temp table kept on commit drop as table {written(spec)}")
            self.connection.execute(f"truncate {written(spec)}")
            self._do(
                "insert into {t} select * from kept where pair %% 50 <> %(rest)s", spec, rest=self.rng.randrange(50)
            )
            self._do(f"update {{t}} set updated_at = {self.STAMP}", spec, **self._stamp(spec))

    def statements(self) -> None:
        for _ in range(self.rng.randrange(1, 4)):
            self.statement()

    def at_once(self) -> None:
        self.statement()

    def late(self) -> None:
        """Stamped when it begins, seen when it commits; meanwhile others commit."""
        with self._open():
            self.statements()
            self.pause()
            self.statement()

    def idle(self) -> None:
        """In a transaction without a transaction id: nothing but its start says that it will stamp rows of the past."""
        with self._open():
            self.connection.execute("select 1")
            self.pause()
            self.statements()

    def undone(self) -> None:
        with self._open():
            self.statements()
            self.pause(0.2)
            raise psycopg.Rollback

    def partly_undone(self) -> None:
        with self._open():
            self.statement()
            kept = self.changed
            with self.connection.transaction():
                self.statements()
                raise psycopg.Rollback
            self.changed = kept
            self.statement()

    def script(self) -> None:
        """Many transactions in one message: the last, after thousands of empty ones, is stamped with when that came."""
        spec = self.rng.choice([spec for spec in self.specs if spec.mode == "incremental"])
        query = f"""
            select pg_sleep(%(seconds)s); {"commit; begin; " * 10_000}
            update {{t}} set amount = amount + (1 - 2 * half), updated_at = {self.STAMP} where {self.IN_SLICE}"""
        values = {"seconds": self.rng.uniform(0.1, 1.5), **self._slice(), **self._stamp(spec)}
        with self._open():
            cursor = psycopg.ClientCursor(self.connection)
            cursor.execute(sql.SQL(query).format(t=sql.Identifier(written(spec))), values)
            while cursor.nextset():
                pass
            self.changed += cursor.rowcount

    def procedure(self) -> None:
        """A block that commits on its way: what it writes in its last transaction, it stamps with when it was sent."""
        spec = self.rng.choice([spec for spec in self.specs if spec.mode == "incremental"])
        query = f"""
            do $$ begin
                perform pg_sleep(%(before)s);
                commit;
                perform pg_sleep(%(after)s);
                update {{t}} set amount = amount + (1 - 2 * half),
                    updated_at = {self.STAMP.replace("now()", "statement_timestamp()")} where {self.IN_SLICE};
            end $$"""
        # Long enough for a busy machine to read the horizon and the rows while it goes on.
        pauses = {"before": self.rng.uniform(0.4, 1.0), "after": self.rng.uniform(0.2, 4.0)}
        values = {**pauses, **self._slice(), **self._stamp(spec)}
        psycopg.ClientCursor(self.connection).execute(sql.SQL(query).format(t=sql.Identifier(written(spec))), values)

    def prepared(self) -> None:
        """Two-phase commit: between the phases the transaction belongs to no session."""
        name = f"drill_{self.rng.getrandbits(60)}"
        with self._open():
            self.statements()
            self.connection.execute(f"prepare transaction '{name}'")
        self.pause()
        end = self.rng.choices(("commit", "rollback"), (4, 1))[0]
        self.connection.execute(f"{end} prepared '{name}'")

    def reshape(self) -> None:
        """Add a column to `shapes` and fill some of it, or drop or widen the newest, which writes all rows anew."""
        shapes = next((spec for spec in self.specs if spec.table == "shapes"), None)
        if shapes is None:
            return
        query = """
            select attname, format_type(atttypid, null) from pg_attribute
            where attrelid = 'shapes'::regclass and attname like 'extra%' order by attnum desc"""
        kinds: dict[str, str] = dict(self.connection.execute(query).fetchall())
        newest = next(iter(kinds), "")
        change = self.rng.choices(("add", "drop", "widen"), (4, 3, 3))[0] if newest else "add"
        with self._open():
            if change == "drop":
                self.connection.execute(f"alter table shapes drop column {newest}")
            elif change == "widen" and kinds[newest] in WIDER:
                self.connection.execute(f"alter table shapes alter column {newest} type {WIDER[kinds[newest]]}")
            else:
                kind = self.rng.choice(("text", *WIDER))
                # A name of the past, where raw keeps what a dropped column of that type held, or a new one.
                column = f"extra_{time.time_ns()}" if kind in WIDER or "extra" in kinds else "extra"
                held = self.rng.choice(("", "default '5'"))  # what rows of before hold, none of which is written
                self.connection.execute(f"alter table shapes add column {column} {kind} {held}")
                fill = f"update {{t}} set {column} = '7', updated_at = now() where {self.IN_SLICE}"
                self._do(fill, shapes, **self._slice())

    def label(self) -> None:
        """Add a label to the enum of `shapes`, then use it, which the transaction that adds it may not."""
        shapes = next((spec for spec in self.specs if spec.table == "shapes"), None)
        if shapes is None:
            return
        label = f"mood {time.time_ns()}"
        self.connection.execute(f"alter type mood add value '{label}'")
        query = f"update {{t}} set mood = %(label)s, updated_at = now() where {self.IN_SLICE}"
        self._do(query, shapes, label=label, **self._slice())

    @contextmanager
    def _open(self) -> Iterator[None]:
        before = self.changed
        self.connection.autocommit = False
        try:
            with suppress(psycopg.Rollback):
                yield
                self.connection.commit()
        except BaseException:
            self.changed = before
            raise
        finally:
            if not self.connection.closed:
                self.connection.rollback()
                self.connection.autocommit = True

    def pause(self, longest: float = 2.0) -> None:
        time.sleep(self.rng.uniform(0.05, longest))


WAYS: dict[Callable[[Writer], None], float] = {
    Writer.at_once: 12, Writer.late: 3, Writer.idle: 2, Writer.undone: 1, Writer.partly_undone: 2,
    Writer.script: 1, Writer.procedure: 1, Writer.prepared: 0.5, Writer.reshape: 0.7, Writer.label: 0.4,
}  # fmt: skip
"""How transactions begin, wait and end, and how often."""


def fill(dsn: str, specs: list[TableSpec], later: int = 0) -> int:
    """Give every table its first rows, `later` pairs later; returns their number."""
    with psycopg.connect(dsn, options=BERLIN, autocommit=True) as connection:
        changed = 0
        for spec in specs:
            count, body = (BLOB_PAIRS, BLOB) if spec.table == "blobs" else (PAIRS, "null")
            query = f"""
                insert into {written(spec)} (pair, half, amount, body, updated_at)
                select pair, half, (1 - 2 * half) * pair, {body}, now() - interval '1 hour'
                from generate_series({1 + later}, {count + later}) as pair
                cross join (values (0), (1)) as halves (half)"""
            changed += connection.execute(query).rowcount
    return changed


def write(
    dsn: str,
    specs: list[TableSpec],
    seed: str,
    weighted: dict[Callable[[Writer], None], float],
    changes: SynchronizedArray,
    slot: int,
) -> None:
    """The body of a writer process: write until SIGTERM, through restarts of the server."""
    going = True

    def stop(_: int, __: FrameType | None) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, stop)
    rng = random.Random(seed)
    ways, weights = list(weighted), list(weighted.values())
    while going:
        # The application tries something else.
        with suppress(*RACES), psycopg.connect(dsn, options=BERLIN, autocommit=True) as connection:
            writer = Writer(connection, rng, specs)
            while going:
                before = writer.changed
                rng.choices(ways, weights)[0](writer)
                changes[slot] += writer.changed - before
                time.sleep(rng.expovariate(20))
        time.sleep(0.02)
