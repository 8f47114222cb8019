"""COPY out of one server straight into another: bytes, never Python objects, in constant memory."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from include.errors import TransientError
from include.sessions import Connection

BLOCK_BYTES = 256 * 1024
"""Bytes gathered before a write: one system call for thousands of rows instead of one each."""


@dataclass(frozen=True)
class Copied:
    """Rows and bytes of COPY text that went through."""

    rows: int
    bytes: int

    def __add__(self, other: Copied) -> Copied:
        return Copied(self.rows + other.rows, self.bytes + other.bytes)


def stream(source: Connection, copy_out: sql.Composable, target: Connection, copy_in: sql.Composable) -> Copied:
    """Pump `copy_out` on the source into `copy_in` on the target, inside the target's open transaction.

    Raises:
        TransientError: both ended well but counted differently. A stream cut at a row boundary looks complete to the
            writer, so the counts of both command tags have to agree.
    """
    gathered = bytearray()
    moved = 0
    with source.cursor() as reader, target.cursor() as writer:
        with reader.copy(copy_out) as blocks, writer.copy(copy_in) as sink:
            for block in blocks:
                gathered += block
                if len(gathered) >= BLOCK_BYTES:
                    sink.write(bytes(gathered))
                    moved += len(gathered)
                    gathered.clear()
            if gathered:
                sink.write(bytes(gathered))
                moved += len(gathered)
        if reader.rowcount != writer.rowcount:
            raise TransientError(f"the source sent {reader.rowcount} rows, the warehouse took {writer.rowcount}")
        return Copied(reader.rowcount, moved)
