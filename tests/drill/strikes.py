"""Faults: what may happen to an attempt, from inside its own process or from beside it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import psycopg
from psycopg.pq import ExecStatus, TransactionStatus

from include.local.databases import WAREHOUSE
from tests.drill.world import SIDES, SOURCE

if TYPE_CHECKING:
    from tests.drill.attempt import Attempt

DISK_BYTES = 16 * 1024 * 1024
"""A file of the warehouse's session that grows beyond this finds the disk full; no WAL segment is larger."""

TOO_LARGE = "File too large"
"""What the server then says, as an internal error; of a full disk it says "No space left", as an operational one."""


@dataclass(frozen=True)
class Fault:
    """Something to happen to one attempt.

    Attributes:
        kind: A name in `STRIKES`.
        step: Where, a name that `Attempt` reports.
        delay: Seconds; above zero the fault strikes from beside, while the attempt goes on.
    """

    kind: str
    step: str
    delay: float = 0.0


Strike = Callable[["Attempt", Fault], None]


def _kill(attempt: Attempt, fault: Fault) -> None:
    attempt.tell(struck=fault.kind, step=fault.step)
    os.kill(os.getpid(), signal.SIGKILL)


def _freeze(attempt: Attempt, fault: Fault) -> None:
    attempt.tell(struck=fault.kind, step=fault.step)
    os.kill(os.getpid(), signal.SIGSTOP)


def _pause(attempt: Attempt, fault: Fault) -> None:
    attempt.tell(struck=fault.kind, step=fault.step)
    time.sleep(0.3)


def _terminate(side: str) -> Strike:
    def strike(attempt: Attempt, fault: Fault) -> None:
        if side in attempt.sessions:
            with attempt.world.admin(side) as admin:
                pid = attempt.sessions[side].info.backend_pid
                _quietly(admin, f"select pg_terminate_backend({pid}, {0 if fault.delay else 1000})")
            attempt.tell(struck=fault.kind, step=fault.step)

    return strike


def _stop(side: str) -> Strike:
    def strike(attempt: Attempt, fault: Fault) -> None:
        pid = attempt.world.postmaster(side)
        if pid is None:
            return  # another task was faster
        # First of all: this process may end at once, and a server that nobody knows to be down stays down.
        attempt.tell(struck=fault.kind, step=fault.step, down=side, pid=pid)
        attempt.world.kill_server(pid)
        if not fault.delay:
            attempt.world.wait_until_down(side, pid)

    return strike


def _cut(side: str) -> Strike:
    def strike(attempt: Attempt, fault: Fault) -> None:
        attempt.proxies[side].cut(after_bytes=int(fault.delay * 10_000_000))
        attempt.tell(struck=fault.kind, step=fault.step)

    return strike


def _hang(attempt: Attempt, fault: Fault) -> None:
    """What stands before the source keeps the connection open, and passes nothing on."""
    attempt.proxies[SOURCE].hang(after_bytes=0)
    attempt.tell(struck=fault.kind, step=fault.step)


def _fill_disk(attempt: Attempt, fault: Fault) -> None:
    """A limit on the files of the warehouse's backend: its writes fail like those on a full disk, and nobody else's."""
    if WAREHOUSE in attempt.sessions:
        backend = psutil.Process(attempt.sessions[WAREHOUSE].info.backend_pid)
        helper = os.fork()  # only the server's own user may limit it
        if helper == 0:
            os.setgid(backend.gids().real)
            os.setuid(backend.uids().real)
            backend.rlimit(psutil.RLIMIT_FSIZE, (DISK_BYTES, psutil.RLIM_INFINITY))
            os._exit(0)
        os.waitpid(helper, 0)


def _lock_raw(attempt: Attempt, fault: Fault) -> None:
    """Somebody's `alter table` on raw, which waits for nobody and ends when it likes."""
    holder = attempt.world.admin(WAREHOUSE)
    try:
        _quietly(holder, "begin; set local lock_timeout = 100")
        _quietly(holder, f"lock table raw_shop.{attempt.table} in access exclusive mode")
    except psycopg.OperationalError:
        holder.close()  # no such table yet, or a load was faster
    else:
        attempt.tell(struck=fault.kind, step=fault.step)
        threading.Timer(0.2 + 50 * fault.delay, holder.close).start()


def _time_out(attempt: Attempt, fault: Fault) -> None:
    """From here on no statement may take longer than two milliseconds."""
    # While buckets are compared, a thread is at either session, and holds its lock; alone, this one itself may hold it.
    alone, struck = threading.active_count() == 1, False
    for session in attempt.sessions.values():
        if alone or session.lock.acquire(blocking=False):
            try:
                if session.info.transaction_status in (TransactionStatus.IDLE, TransactionStatus.INTRANS):
                    _quietly(session, "set statement_timeout = 2")
                    struck = True
            finally:
                if not alone:
                    session.lock.release()
    if struck:
        attempt.tell(struck=fault.kind, step=fault.step)


def _quietly(connection: psycopg.Connection, query: str) -> None:
    """Below psycopg's cursors, which are traced."""
    done = connection.pgconn.exec_(query.encode())
    if done.status == ExecStatus.FATAL_ERROR:
        raise psycopg.OperationalError(done.error_message.decode())


STRIKES: dict[str, Strike] = {
    "kill -9": _kill,
    "freeze": _freeze,
    "pause": _pause,
    **{f"terminate {side}": _terminate(side) for side in SIDES},
    **{f"stop {side}": _stop(side) for side in SIDES},
    **{f"cut {side}": _cut(side) for side in SIDES},
    "hang shop": _hang,
    "lock raw": _lock_raw,
    "time out": _time_out,
    **({"disk full": _fill_disk} if sys.platform == "linux" else {}),
}
"""Every kind of fault, by its name in the report."""
