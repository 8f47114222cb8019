"""The list of tables to load: the dbt source entries, as dbt has parsed them, are the only place that holds it.

A table of a dbt source that carries `config.meta.extract`, or whose source does, is loaded; `TableSpec` is its schema.
One without is somebody else's. A mistake is one sentence with file, table and remedy, and stops that table alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pytimeparse import parse as parse_seconds

from include.dbt.names import group_of_table, layer_of_source, variable_of_table
from include.dbt.project import sources_path

LOADED_COLUMNS = ("_loaded_at", "_run_id", "_deleted_at")
"""Columns that loading adds to every raw table."""

MAX_NAME_BYTES = 63
"""A longer identifier is cut off by PostgreSQL: two tables could become one."""


READING = {"key", "cursor", "cursor_zone", "mode", "columns", "where"}
"""What of an entry decides which rows a run reads, and as what."""


class TableSpec(BaseModel):
    """One source table and how it is extracted (`config.meta.extract` of its dbt source entry).

    Attributes:
        source: Name of the dbt source, which is also the id of the Airflow connection it is read through.
        table: Name in dbt, in the raw schema and, unless `identifier` differs, in the source database.
        key: Columns that identify a row. May be empty for `mode: full` alone.
        cursor: Column that grows with every insert and update (timestamptz, or timestamp with `cursor_zone`).
        mode: `incremental` upserts rows whose cursor moved; `append` inserts new keys, and refuses a known one with
            other content, but where every row is read; `full` reads everything each time.
        deletes: `soft` stamps `_deleted_at` on rows that are gone from the source; `ignore` keeps them. With
            `incremental`, every run then compares keys and cursors by bucket, or whole rows where the catalog does not
            prove that the cursor shows every change: a scan of the table on both sides.
        overlap: How far before the watermark each run reads again. Covers clocks of writers that run behind.
        null_cursor: `error` refuses rows without a cursor value; `always` reads them in every run.
        cursor_zone: IANA time zone of a cursor without one (`timestamp`).
        columns: What to do with single columns instead of copying them: `omit`, `hash` (sha256 of salt and text),
            `unsalted_hash` (who guesses a value can check it), `text` (for types that the warehouse does not have).
        where: SQL condition on the source table's columns: the others of its rows are not read, and one that no longer
            meets it is gone. Whatever it goes by, every run compares which rows do.
        drift: `evolve` follows changes of the source that lose nothing; `freeze` stops at any.
        rows_per_range: Where every row is read, a larger table is cut into ranges of its key of about so many rows,
            each read by a task of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    table: str
    schema_name: str = Field("public", alias="schema")
    identifier: str
    key: tuple[str, ...] = ()
    cursor: str | None = None
    mode: Literal["incremental", "append", "full"] = "incremental"
    deletes: Literal["soft", "ignore"] = "ignore"
    overlap: timedelta = timedelta(minutes=1)
    null_cursor: Literal["error", "always"] = "error"
    cursor_zone: str | None = None
    columns: dict[str, Literal["omit", "hash", "unsalted_hash", "text"]] = {}
    where: Annotated[str, Field(min_length=1)] | None = None
    drift: Literal["evolve", "freeze"] = "evolve"
    rows_per_range: Annotated[int, Field(gt=0)] | None = None

    @field_validator("key", mode="before")
    @classmethod
    def _one_column_may_stand_alone(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("overlap", mode="before")
    @classmethod
    def _parse_overlap(cls, value: Any) -> timedelta:
        seconds = parse_seconds(value) if isinstance(value, str) else None
        # Never none: a transaction shows among the sessions a moment after it took its timestamp.
        if seconds is None or seconds <= 0:
            raise ValueError(f"overlap is {value!r}, write a duration such as '1 minute' or '2 hours'")
        return timedelta(seconds=seconds)

    @field_validator("cursor_zone")
    @classmethod
    def _zone_exists(cls, value: str | None) -> str | None:
        try:
            return value if value is None else ZoneInfo(value).key
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"cursor_zone {value!r} is no time zone, write an IANA name such as 'Europe/Berlin'")

    @model_validator(mode="after")
    def _names_fit(self) -> TableSpec:
        for name in (self.raw_schema, self.table):
            if len(name.encode()) > MAX_NAME_BYTES:
                raise ValueError(
                    f"name {name!r} is longer than PostgreSQL's {MAX_NAME_BYTES} bytes; choose a shorter `name:`, "
                    "and give the source's own with `identifier:`"
                )
        return self

    @model_validator(mode="after")
    def _mode_has_what_it_needs(self) -> TableSpec:
        if self.mode != "full":
            missing = [name for name in ("key", "cursor") if not getattr(self, name)]
            if missing:
                raise ValueError(
                    f"mode {self.mode!r} needs {' and '.join(missing)}; add "
                    + " and ".join(f"`{name}:`" for name in missing)
                    + ", or set `mode: full`"
                )
        if self.deletes == "soft" and (self.mode == "append" or not self.key):
            raise ValueError(
                "deletes 'soft' needs `key:` and `mode: incremental` or `full`; append never changes a row"
            )
        if self.where and self.mode != "full" and self.deletes != "soft":
            raise ValueError(
                "no cursor shows a row that begins or ceases to meet `where:`; "
                "add `deletes: soft` to `mode: incremental`, or set `mode: full`"
            )
        if self.cursor in self.columns:
            raise ValueError(f"cursor {self.cursor!r} is read as it is; remove it from `columns:`")
        omitted = [name for name in self.key if self.columns.get(name) == "omit"]
        if omitted:
            raise ValueError(f"key {omitted[0]!r} cannot be omitted; remove it from `columns:`, or write `hash`")
        if self.rows_per_range and (not self.key or set(self.key) & self.columns.keys()):
            raise ValueError("rows_per_range needs a `key:`, none of which is in `columns:`: ranges are slices of it")
        if self.cursor_zone and self.overlap < timedelta(hours=1):
            raise ValueError("a cursor without a time zone needs `overlap: 1 hour` or more (clock changes)")
        return self

    @property
    def name(self) -> str:
        """`source.table`, as messages, locks and the ledger call it."""
        return f"{self.source}.{self.table}"

    @property
    def first_task(self) -> str:
        """The task to clear where the table is to be read again."""
        return "cut" if self.rows_per_range else "extract"

    @property
    def reads_null_cursors(self) -> bool:
        """Whether every run reads the rows that have no cursor value."""
        return self.mode == "full" or self.null_cursor == "always"

    @property
    def reading(self) -> dict[str, Any]:
        """`READING` of this entry, as JSON."""
        return self.model_dump(mode="json", include=READING)

    @property
    def salted(self) -> list[str]:
        """Columns that are hashed with the connection's salt."""
        return [name for name, treatment in self.columns.items() if treatment == "hash"]

    @property
    def raw_schema(self) -> str:
        """Schema of the raw table in the warehouse."""
        return f"raw_{self.source}"

    @property
    def watermark_key(self) -> str:
        """Key of the Airflow Variable that shows this table's watermark."""
        return variable_of_table(self.source, self.table)

    @property
    def task_group(self) -> str:
        """Id of the group of the table's tasks in the pipeline's DAG."""
        return f"{layer_of_source(self.source)}.{group_of_table(self.source, self.table)}"


class Problem(NamedTuple):
    """A source table that cannot be loaded as its entry stands.

    Attributes:
        name: `source.table`.
        sentence: File, table, what is wrong and the remedy.
    """

    name: str
    sentence: str


class Tables(NamedTuple):
    """The source tables to load, by dbt's unique id, and those that cannot be."""

    specs: dict[str, TableSpec]
    problems: dict[str, Problem]

    @property
    def names(self) -> list[str]:
        """`source.table` of all of them, as a run's parameter `tables` lists them."""
        names = [spec.name for spec in self.specs.values()] + [problem.name for problem in self.problems.values()]
        return list(dict.fromkeys(names))


def load_specs() -> list[TableSpec]:
    """One spec for each source table that can be loaded, in dbt's order; see `load_tables`."""
    return list(load_tables().specs.values())


def load_tables() -> Tables:
    """Every source table of the dbt project that has `config.meta.extract`, its own or its source's.

    Raises:
        ConfigError: dbt cannot parse the project; carries dbt's own message.
    """
    return _tables_of_text(sources_path().read_text(encoding="utf-8"))


@lru_cache(maxsize=8)
def _tables_of_text(text: str) -> Tables:
    return tables_of(json.loads(text))


def tables_of(entries: Iterable[Mapping[str, Any]]) -> Tables:
    """Check source entries, each by itself: what is wrong with one leaves the others alone.

    Args:
        entries: As `include.dbt.graph.entries` makes them of dbt's manifest.
    """
    tables = Tables({}, {})
    seen: dict[str, str] = {}
    for entry in entries:
        name = f"{entry['source_name']}.{entry['name']}"
        try:
            spec = _spec_of(entry)
            if spec.name in seen.values():
                raise ValueError("a package lists it too; remove `extract` from one of the two entries")
            if seen.setdefault(spec.watermark_key, name) != name:
                raise ValueError(
                    f"it and {seen[spec.watermark_key]} would share the Variable {spec.watermark_key}; "
                    "rename one of the two"
                )
            tables.specs[entry["unique_id"]] = spec
        except ValueError as error:
            said = _first_problem(error) if isinstance(error, ValidationError) else str(error)
            tables.problems[entry["unique_id"]] = Problem(name, f"{entry['file']}: table {name}: {said}")
    return tables


def _spec_of(entry: Mapping[str, Any]) -> TableSpec:
    source, table, extract = entry["source_name"], entry["name"], entry["extract"]
    if not isinstance(extract, dict):
        raise ValueError(f"`config.meta.extract` is {extract!r}; write `key:` and `cursor:` below it")
    taken = {"source", "table"} & extract.keys()
    if taken:
        raise ValueError(f"unknown key {sorted(taken)[0]!r} under `extract`; remove it")
    spec = TableSpec.model_validate({"identifier": table, **extract, "source": source, "table": table})
    if entry["schema"] != spec.raw_schema:
        raise ValueError(
            f"source {source!r} has schema {entry['schema']!r}; set `schema: {spec.raw_schema}`, where its tables are "
            "loaded, or remove `extract` if somebody else loads it"
        )
    if entry["identifier"] != table:
        raise ValueError(
            f"dbt reads it as {entry['identifier']!r}, but it is loaded as {table!r}; "
            "move `identifier:` below `extract:`"
        )
    return spec


def _first_problem(error: ValidationError) -> str:
    """The first problem of a validation as one sentence with its remedy."""
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        allowed = sorted((f.alias or n) for n, f in TableSpec.model_fields.items() if n not in ("source", "table"))
        return f"unknown key {name!r} under `extract`; known keys are {', '.join(allowed)}"
    if problem["type"] == "literal_error":
        return f"{name} is {problem['input']!r}; write one of {problem['ctx']['expected']}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return message if not name or problem["type"] == "value_error" else f"{name}: {message}"
