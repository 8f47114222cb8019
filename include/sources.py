"""The list of tables to load: read from the dbt source entries, the only place that holds it.

Each table of a dbt source carries, under `config.meta.extract`, what the extractor needs; `TableSpec` is its schema.
A mistake is a `ConfigError` that names file, table and remedy, raised when the DAG is parsed.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pytimeparse import parse as parse_seconds

from include.errors import ConfigError

LOADED_COLUMNS = ("_loaded_at", "_run_id", "_deleted_at")
"""Columns that loading adds to every raw table."""

MAX_NAME_BYTES = 63
"""A longer identifier is cut off by PostgreSQL: two tables could become one."""


READING = {"key", "cursor", "cursor_zone", "mode", "columns"}
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
            `incremental`, every run then compares keys and cursors by bucket: a scan of the table on both sides.
        overlap: How far before the watermark each run reads again. Covers clocks of writers that run behind.
        null_cursor: `error` refuses rows without a cursor value; `always` reads them in every run.
        cursor_zone: IANA time zone of a cursor without one (`timestamp`).
        columns: What to do with single columns instead of copying them: `omit`, `hash` (sha256 of the text, in hex) or
            `text` (for types that the warehouse does not have).
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
    columns: dict[str, Literal["omit", "hash", "text"]] = {}
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
    def raw_schema(self) -> str:
        """Schema of the raw table in the warehouse."""
        return f"raw_{self.source}"

    @property
    def watermark_key(self) -> str:
        """Key of the Airflow Variable that shows this table's watermark."""
        return f"watermark__{self.source}__{self.table}"


def load_specs(models_dir: Path) -> list[TableSpec]:
    """Read every source table of the dbt project below `models_dir`.

    Args:
        models_dir: dbt's `models` folder; every `*.yml` below it is read.

    Returns:
        One spec a table, in file order.

    Raises:
        ConfigError: no source at all, or an entry that cannot work; names file, table and remedy.
    """
    specs: dict[str, TableSpec] = {}
    keys: dict[str, str] = {}
    for path in sorted(models_dir.rglob("*.yml")):
        shown = path.relative_to(models_dir.parent.parent)
        for spec in _specs_of_text(path.read_text(encoding="utf-8"), shown):
            if spec.name in specs:
                raise ConfigError(f"{shown}: table {spec.name} is listed twice; remove one of the two entries")
            specs[spec.name] = spec
            if keys.setdefault(spec.watermark_key, spec.name) != spec.name:
                raise ConfigError(
                    f"{shown}: table {spec.name} and {keys[spec.watermark_key]} "
                    f"would share the Variable {spec.watermark_key}; rename one of the two"
                )
    if not specs:
        raise ConfigError(f"{models_dir}: no dbt source lists a table; add one under `sources:`")
    return list(specs.values())


@lru_cache(maxsize=4096)
def _specs_of_text(text: str, shown: Path) -> tuple[TableSpec, ...]:
    return tuple(_parse(text, shown))


def _parse(text: str, shown: Path) -> Iterator[TableSpec]:
    if "sources" not in text:
        return  # most files are of models, and are not worth the parsing in each task's process
    try:
        # PyYAML's loader in C: its other one takes ten times as long, in every task.
        document = yaml.load(text, Loader=yaml.CSafeLoader) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{shown}: not valid YAML ({' '.join(str(error).split())}); correct the syntax") from error
    for source in document.get("sources") or ():
        if source.get("schema") != f"raw_{source.get('name')}":
            raise ConfigError(
                f"{shown}: source {source.get('name')!r} has schema {source.get('schema')!r}; "
                f"set `schema: raw_{source.get('name')}`, where its tables are loaded"
            )
        for table in source.get("tables") or ():
            yield _spec_of_table(source["name"], table, shown)


def _spec_of_table(source: str, table: dict[str, Any], shown: Path) -> TableSpec:
    meta = (table.get("config") or {}).get("meta") or {}
    extract = meta.get("extract")
    where = f"{shown}: table {source}.{table['name']}"
    if not isinstance(extract, dict):
        raise ConfigError(f"{where}: `config.meta.extract` is missing; add it with `key:` and `cursor:`")
    taken = {"source", "table"} & extract.keys()
    if taken:
        raise ConfigError(f"{where}: unknown key {sorted(taken)[0]!r} under `extract`; remove it")
    try:
        return TableSpec(**{"identifier": table["name"], **extract, "source": source, "table": table["name"]})
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_problem(error)}") from error


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
