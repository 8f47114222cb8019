"""Is the source still the one that raw was loaded from, and does it still have what was read?

A crash may take commits along that did not wait for the disk, a promoted standby may lack the last ones, a restore goes
back, and a database made anew has seen none of them. Nothing tells which rows are lost, so every row is compared; see
docs/decisions.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from psycopg.rows import namedtuple_row

from include.postgres.server import Server
from include.postgres.sessions import Connection
from include.sources import TableSpec
from include.sql import statement
from include.state.watermark import BEGINNING

if TYPE_CHECKING:
    from include.state.messages import Batch
    from include.state.precedence import OtherLoad


@dataclass(frozen=True)
class Loss:
    """Why raw may hold what the source does not.

    Attributes:
        what: A sentence for the log.
        since: Instant of the first load that may have read what is lost; None: only what it overwrote can be.
        is_elsewhere: It is another database than the one that was loaded.
    """

    what: str
    since: datetime | None
    is_elsewhere: bool


def find_loss(warehouse: Connection, spec: TableSpec, now: Server) -> Loss | None:
    """What the newest loads of a table say against a source having all that they read; None: nothing.

    Args:
        warehouse: A pinned session on a warehouse that has the ledger.
        spec: The table.
        now: The source, as the snapshot sees it that is about to be read.
    """
    values = {"source": spec.source, "table": spec.table}
    with warehouse.cursor(row_factory=namedtuple_row) as cursor:
        newest = cursor.execute(statement("newest_server"), values).fetchone()
        if newest is None or newest.source_server is None:
            return None
        before = Server(**newest.source_server)
        what = now.contradicts(before)
        if not what and newest.is_of_one_server is False:
            what = "loads of before and after it was started anew were mixed"
        if not what:
            return None
        loads = cursor.execute(statement("servers_of_loads"), values).fetchall()
    known = [(Server(**load.source_server), load.loaded_at) for load in loads if load.source_server]
    suspects = [loaded_at for server, loaded_at in known if now.may_have_lost(server)]
    since = min(suspects, default=None)
    if suspects and len(suspects) == len(known):
        since = BEGINNING  # what was loaded before this was noted is none the safer
    return Loss(f"the source is not as it was loaded: {what}", since, now.is_elsewhere(before))


def server_of_parts(servers: Sequence[Server | None]) -> tuple[Server | None, bool]:
    """The server of an extraction, where it was started anew between two ranges the earlier; and whether it was not."""
    known = [server for server in servers if server]
    if not known or len(known) < len(servers):
        return None, True
    earliest = min(known, key=lambda server: (server.started_at or "", -server.next_xid))
    durable = all(server.is_durable for server in known)
    return replace(earliest, is_durable=durable), all(server.is_same_start(earliest) for server in known)


def stays_one(warehouse: Connection, spec: TableSpec, batch: Batch, others: Sequence[OtherLoad]) -> bool:
    """Whether raw, with a batch in it, holds nothing that the batch's server may have lost.

    Args:
        warehouse: In the load's transaction, under the table's lock.
        spec: The table.
        batch: About to be published.
        others: Loads that were published since its extraction began.
    """
    if batch.server is None:
        return True
    if not all(other.server is None or other.server.is_same_start(batch.server) for other in others):
        return False
    if batch.window.reads_all or batch.lost:
        return True
    values = {"source": spec.source, "table": spec.table}
    row = warehouse.execute(statement("newest_server"), values).fetchone()
    if row is None or row[0] is None:
        return True
    return row[1] is not False and Server(**row[0]).is_same_start(batch.server)
