"""Who answers: which server of which cluster a session is on, and how far its log has come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from psycopg import sql
from psycopg.rows import dict_row

from include.errors import TransientError
from include.postgres.sessions import Connection

NOT_IN_RECOVERY = "case when not pg_is_in_recovery() then {} end"
"""What a standby answers with an error."""

PARTS = {
    "system": (
        ("pg_control_system()",),
        "(select system_identifier::text from pg_control_system())",
        "a source that was built anew from one that restarted",
    ),
    # The control file's is that of the last checkpoint: it lags behind a promotion.
    "timeline": (
        ("pg_walfile_name(pg_lsn)", "pg_current_wal_insert_lsn()"),
        NOT_IN_RECOVERY.format("('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int"),
        "a standby that was promoted from a primary that restarted",
    ),
    "started_at": (
        ("pg_postmaster_start_time()",),
        # After a crash of one process all others are started anew, except the postmaster.
        "coalesce((select min(backend_start) from pg_stat_get_activity(null) where backend_type = 'checkpointer'), "
        "pg_postmaster_start_time())::text",
        "a source that crashed in between from one that ran on",
    ),
    "position": (
        ("pg_current_wal_insert_lsn()", "pg_current_wal_flush_lsn()"),
        NOT_IN_RECOVERY.format("pg_current_wal_insert_lsn()::text"),
        "an earlier place in the log from a later one",
    ),
    # Crash recovery sets the place as well, and no timestamp.
    "recovered_to": (
        ("pg_last_wal_replay_lsn()", "pg_last_xact_replay_timestamp()"),
        "case when pg_last_xact_replay_timestamp() is not null then pg_last_wal_replay_lsn()::text end",
        "what a promoted standby never received from what it has",
    ),
}
"""By part of an identity: the functions it needs, how it is asked for, and what cannot be told apart without it."""

_withheld: WeakKeyDictionary[Connection, frozenset[str]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Server:
    """A server as it was at one moment; what the role may not ask is None, and is compared with nothing.

    Attributes:
        system: Identifier of its cluster, the same on all standbys of it.
        database: OID of the database.
        timeline: Raised by each promotion and by each restore to a point in time.
        started_at: When its processes were started, by its own clock, as text.
        position: Place in its log, after all that a snapshot taken before can show.
        next_xid: Next transaction number.
        recovered_to: Where it stopped to follow another server, if it did so since it was started.
        is_durable: Whether no crash can lose what was seen: the log up to `position` is on disk.
    """

    system: str | None
    database: int
    timeline: int | None
    started_at: str | None
    position: str | None
    next_xid: int
    recovered_to: str | None
    in_recovery: bool = False
    is_durable: bool = False

    def __str__(self) -> str:
        known = {"system": self.system, "timeline": self.timeline, "database": self.database}
        return ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)

    @property
    def unknown(self) -> list[str]:
        """What the role may not know of a primary, as sentences."""
        missing = [name for name in PARTS if getattr(self, name) is None and name != "recovered_to"]
        return [f"{' and '.join(PARTS[name][0])}: nothing tells {PARTS[name][2]}" for name in missing]

    def is_elsewhere(self, other: Server) -> bool:
        """Whether it is another database than the other was."""
        return _differ(self.system, other.system) or self.database != other.database

    def is_same_start(self, other: Server) -> bool:
        """Whether nothing was lost between the two: one database of one server that has run all the time."""
        forked = _differ(self.timeline, other.timeline)
        return not (self.is_elsewhere(other) or forked or _differ(self.started_at, other.started_at))

    def contradicts(self, before: Server) -> str | None:
        """What shows that the server may have lost what it had at an earlier moment; None: it has run on."""
        if self.is_elsewhere(before):
            return f"it is another one ({self}; it was {before})"
        if _differ(self.timeline, before.timeline):
            return f"it is on timeline {self.timeline} and was on {before.timeline}, as after a failover or restore"
        if self._is_behind(before):
            return f"its log went back (to {self._place}, from {before._place})"
        if _differ(self.started_at, before.started_at):
            return f"it was started anew at {self.started_at}"
        return None

    def may_have_lost(self, before: Server) -> bool:
        """Whether what was seen on a server may be what this one never had, or no longer has."""
        if self.is_elsewhere(before) or (not _differ(self.timeline, before.timeline) and self._is_behind(before)):
            return True
        if _differ(self.timeline, before.timeline):
            follows = self.timeline == (before.timeline or 0) + 1
            if not (follows and self.recovered_to and before.position):
                return True
            return _lsn(before.position) > _lsn(self.recovered_to)
        return _differ(self.started_at, before.started_at) and not before.is_durable

    def _is_behind(self, before: Server) -> bool:
        if self.next_xid < before.next_xid:
            return True
        return bool(self.position and before.position and _lsn(self.position) < _lsn(before.position))

    @property
    def _place(self) -> str:
        return f"{self.position or 'an unknown place'}, transaction {self.next_xid}"


def server_of(connection: Connection) -> Server:
    """The server that a session is on. After a statement that takes a snapshot, `position` covers what that shows."""
    if connection not in _withheld:
        query = "select name from unnest(%s::text[]) as name where not has_function_privilege(name, 'execute')"
        names = [name for functions, *_ in PARTS.values() for name in functions]
        _withheld[connection] = frozenset(name for (name,) in connection.execute(query, (names,)))
    asked = [
        "cast(cast(pg_snapshot_xmax(pg_current_snapshot()) as text) as bigint) as next_xid",
        "pg_is_in_recovery() as in_recovery",
        "(select oid::bigint from pg_database where datname = current_database()) as database",
        *(
            f"{'null' if _withheld[connection].intersection(functions) else expression} as {name}"
            for name, (functions, expression, _) in PARTS.items()
        ),
    ]
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(sql.SQL("select " + ", ".join(asked))).fetchone()
    assert row is not None
    return Server(**row)


def expect(now: Server, begun: Server | None, source: str) -> Server:
    """Refuse a session that is not on the server that a run began on.

    Args:
        now: Of the session.
        begun: Of the run's horizon; None asks for a primary alone.
        source: Name of the dbt source, for messages.

    Raises:
        TransientError: a standby, which may lag behind; or another server than the run's.
    """
    if now.in_recovery:
        raise TransientError(
            f"source {source!r} is a standby here ({now}), which may lag behind the primary; try again"
        )
    if begun and (now.is_elsewhere(begun) or _differ(now.timeline, begun.timeline)):
        raise TransientError(
            f"source {source!r} is another server ({now}) than when the run read its horizon ({begun}): try again; "
            f"if it stays so, clear {source}.horizon with what follows it, or wait for the next run"
        )
    return now


def is_durable(connection: Connection, server: Server) -> bool:
    """Whether the log is on disk up to where a snapshot was taken: then a crash loses nothing that it showed."""
    if server.position is None:
        return False
    row = connection.execute("select pg_current_wal_flush_lsn() >= %s::pg_lsn", (server.position,)).fetchone()
    return bool(row and row[0])


def _differ(one: Any, other: Any) -> bool:
    return None not in (one, other) and one != other


def _lsn(text: str) -> int:
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)
