"""Which loads read a newer snapshot of the source than a batch that is about to be published."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from include.errors import TerminalError
from include.postgres.server import Server
from include.postgres.sessions import Connection
from include.sources import TableSpec
from include.sql import statement
from include.state.messages import Batch, Mode


@dataclass(frozen=True)
class OtherLoad:
    """A load that was published after the batch's extraction began; the snapshots of its ranges, oldest and last."""

    run_id: str
    extraction_id: int
    mode: Mode
    window_start: datetime | None
    snapshot_xmax: int
    snapshot_running: int
    oldest_xmax: int
    oldest_running: int
    started_at: datetime
    staged_at: datetime | None
    loaded_at: datetime
    source_server: dict[str, Any] | None

    @property
    def server(self) -> Server | None:
        return Server(**self.source_server) if self.source_server else None

    def is_of_one_order(self, batch: Batch) -> bool:
        """Whether their snapshots were numbered by a server that ran all the time: no other numbers are an order."""
        return self.server is None or batch.server is None or self.server.is_same_start(batch.server)

    @property
    def place(self) -> tuple[int, int]:
        return self.snapshot_xmax, -self.snapshot_running

    def is_newer(self, batch: Batch) -> bool:
        return self.place > batch.place if self.is_of_one_order(batch) else batch.staged_at < self.started_at

    def began_before(self, batch: Batch) -> bool:
        return self.is_of_one_order(batch) and (self.oldest_xmax, -self.oldest_running) < batch.place

    def is_out_of_order(self, batch: Batch) -> bool:
        """Whether it can't be told which of two read first.

        Either the warehouse's clock says the opposite of the snapshots: the source went back to an earlier one. Or the
        source was started anew between the two, and they overlap in time.
        """
        ended_before = self.staged_at is not None and self.staged_at < batch.started_at
        began_after = batch.staged_at < self.started_at
        if not self.is_of_one_order(batch):
            return not ended_before and not began_after
        return ended_before if self.is_newer(batch) else self.place < batch.place and began_after

    def covers(self, batch: Batch) -> bool:
        """Whether it read everything that the batch did, given that it is newer.

        What it found unchanged, or not at all, carries no stamp that would keep the batch from bringing back its
        version.
        """
        if self.mode != "incremental":
            return self.mode in ("first", "full")
        return (
            self.window_start is not None and batch.window_start is not None and self.window_start <= batch.window_start
        )


def overlapping_loads(connection: Connection, spec: TableSpec, batch: Batch) -> list[OtherLoad]:
    """Loads of the table that were published since the batch's extraction began."""
    values = {"source": spec.source, "table": spec.table, "after_load_id": batch.after_load_id}
    with connection.cursor(row_factory=class_row(OtherLoad)) as cursor:
        return cursor.execute(statement("overlapping_loads"), values).fetchall()


def newer_loads(spec: TableSpec, batch: Batch, loads: list[OtherLoad]) -> list[OtherLoad]:
    """Those of the overlapping loads whose snapshot is newer than the batch's: their rows must not be replaced.

    Raises:
        TerminalError: a later attempt of the same run has loaded: this one is a zombie. Or it can't be told which of
            two is newer: a load read some ranges of the table before this batch and some after it, or the source was
            replaced by an earlier state of itself in between.
    """
    if any(load.run_id == batch.run_id and load.extraction_id > batch.extraction_id for load in loads):
        raise TerminalError(
            f"{spec.name}: a later attempt of run {batch.run_id} has already loaded; this one stops without a change"
        )
    again = f"clear the table's {spec.first_task} task, which reads it again"
    for load in loads:
        if load.is_out_of_order(batch):
            raise TerminalError(
                f"{spec.name}: run {load.run_id} read it at about the same time, and the source was started anew or "
                f"its transaction numbers went back in between, as after a failover or restore; {again}"
            )
    newer = [load for load in loads if load.is_newer(batch)]
    for load in newer:
        if load.began_before(batch):
            raise TerminalError(f"{spec.name}: run {load.run_id} read it in ranges at the same time; {again}")
    return newer
