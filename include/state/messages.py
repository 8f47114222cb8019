"""What one task hands to the next: a few hundred bytes, never rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import md5
from typing import Any, Literal, Self, get_args, get_type_hints

from include.postgres.buckets import Buckets
from include.postgres.server import Server

Mode = Literal["first", "incremental", "full", "window", "repair"]
"""`first`: no earlier load. `incremental`: from the watermark on. `full`: every row again. `window`: a backfill.
`repair`: all rows of some buckets, whatever their cursor."""


def digest(value: dict[str, Any]) -> str:
    """Of JSON; the same for equal values."""
    return md5(json.dumps(value, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def to_text(instant: datetime) -> str:
    """UTC ISO text with six digits, the one form a watermark is kept in."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds")


class _Message:
    """A frozen dataclass that passes through XCom as JSON: instants as text with all their digits."""

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)  # type: ignore[call-overload]
        return {key: to_text(value) if isinstance(value, datetime) else value for key, value in values.items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        hints = get_type_hints(cls)
        made: dict[type, Callable[[Any], Any]] = {datetime: datetime.fromisoformat, Server: lambda of: Server(**of)}
        makers = {
            name: make
            for name, hint in hints.items()
            for type_, make in made.items()
            if type_ in (hint, *get_args(hint))
        }
        return cls(
            **{
                key: makers[key](value) if key in makers and value is not None else value
                for key, value in values.items()
            }
        )


@dataclass(frozen=True)
class Horizon(_Message):
    """An instant below which no transaction of the source can still commit a row it stamped.

    Attributes:
        at: The horizon: the start of the oldest open transaction, or the clock where there is none.
        read_at: The source's clock at that moment.
        may_advance: False while a transaction is open whose start is not shown, as a prepared one's.
        held_by: Who holds the horizon back, for the log; None where nobody does.
        server: Where it was read: what it says holds there alone.
    """

    at: datetime
    read_at: datetime
    may_advance: bool = True
    held_by: str | None = None
    server: Server | None = None


@dataclass(frozen=True)
class Window:
    """The slice of one table that one run reads, half-open: `lower <= cursor < upper`.

    Attributes:
        mode: See `Mode`.
        lower: First instant read; None reads from the beginning.
        upper: First instant not read; None reads everything the snapshot shows.
        mark: The watermark after the load; None leaves it alone.
        buckets: What a repair reads instead of a slice.
    """

    mode: Mode
    lower: datetime | None
    upper: datetime | None
    mark: datetime | None
    buckets: Buckets | None = None

    @property
    def reads_all(self) -> bool:
        return self.mode in ("first", "full")


@dataclass(frozen=True)
class Part(_Message):
    """What one task reads of a begun extraction: a range of the key, or, where `ranges` is 1, all of the window.

    The bounds of a range are rows of the source: they stay in the warehouse, in `_elt.extraction_range`.

    Attributes:
        run_id: Airflow run that began it; stamped on its rows.
        extraction_id: Number drawn for this attempt; a later attempt has a larger one.
        after_load_id: Newest load of the table when this extraction began; only later ones can conflict with it.
        window_start: First cursor value read, if bounded.
        window_end: First cursor value not read, if bounded.
        watermark_before: The Airflow Variable as this extraction read it.
        started_at: Begin of the extraction by the warehouse's clock.
        shape: Digest of the source table's shape, which every range has to find again.
        entry: Digest of what the table's entry said of reading, which the load has to find again.
        added: Columns that raw lacked when the table was looked at; None where there was no raw table.
        defaults: What rows of before hold in those columns, as text, where it is not NULL.
        ranges: How many parts the extraction has; `number` counts them from 0.
        begun_on: The horizon's server, on which every part has to be read.
    """

    source: str
    table: str
    run_id: str
    extraction_id: int
    after_load_id: int
    mode: Mode
    window_start: datetime | None
    window_end: datetime | None
    horizon: datetime
    mark: datetime | None
    watermark_before: str | None
    started_at: datetime
    shape: str
    entry: str
    added: tuple[str, ...] | None
    number: int
    ranges: int
    begun_on: Server | None = field(default=None, kw_only=True)
    defaults: dict[str, str] = field(default_factory=dict, kw_only=True)

    @property
    def window(self) -> Window:
        return Window(self.mode, self.window_start, self.window_end, self.mark)


@dataclass(frozen=True)
class Staged:
    """What was read of a part, and in which snapshot of the source.

    Attributes:
        snapshot_xmax: With `snapshot_running`, the snapshot's place in the order of the source's snapshots.
        copy_format: `binary` or `text`, in which the rows travelled.
        staged_at: When all were staged, by the warehouse's clock.
        server: Where it was read, as it was when the snapshot was taken.
        lost: What shows that the source may have lost what earlier loads read; then every row was read or compared.
        lost_since: Instant of the first load that may have read what is lost; None where there is none.
    """

    snapshot_xmax: int
    snapshot_running: int
    rows_extracted: int
    bytes_extracted: int
    copy_format: str
    staged_at: datetime
    server: Server | None = field(default=None, kw_only=True)
    lost: str | None = field(default=None, kw_only=True)
    lost_since: datetime | None = field(default=None, kw_only=True)

    @property
    def place(self) -> tuple[int, int]:
        """Larger for a later snapshot."""
        return self.snapshot_xmax, -self.snapshot_running


@dataclass(frozen=True)
class Batch(Staged, Part):
    """A part whose rows are staged in the warehouse, in `_elt.staging_<extraction_id>`, and not yet loaded."""


@dataclass(frozen=True)
class LoadResult(_Message):
    """What a load did, as its ledger row says. `mark` is None where the watermark stays."""

    source: str
    table_name: str
    mode: Mode
    mark: datetime | None
    rows_extracted: int
    rows_inserted: int
    rows_updated: int
    rows_deleted: int
    loaded_at: datetime
