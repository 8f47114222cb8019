"""What the source's catalog says of a table, and what follows from it for dbt and the extraction."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from psycopg.rows import dict_row

from include.catalog import filled_elsewhere
from include.errors import ConfigError
from include.sessions import Connection, relation_text
from include.sources import LOADED_COLUMNS
from include.sql import statement

CURSOR = re.compile(r"(updated|modified|changed)(_?(at|on|ts|time|date))?$|^last_?(update|modif|change)", re.IGNORECASE)
"""Names of columns that every insert and update moves, by custom."""

GENERIC = {"id", "name", "status", "type", "code", "description", "created_at", "updated_at", "deleted_at", "loaded_at"}
"""Names that say nothing without their table, or that staging models use themselves."""

GROUPS = ("ids", "strings", "numerics", "booleans", "times")
_GROUP_OF_CATEGORY = {"N": "numerics", "B": "booleans", "D": "times", "T": "times"}


@dataclass(frozen=True)
class Column:
    """A source column; `quoted` is its name as SQL writes it, `category` PostgreSQL's `typcategory`."""

    name: str
    quoted: str
    type: str
    is_not_null: bool
    is_builtin: bool
    category: str
    description: str | None

    @property
    def staged_type(self) -> str:
        """The type that staging casts to, as this project writes it."""
        plain = self.type.replace(",", ", ").replace("timestamp with time zone", "timestamptz")
        return plain if self.is_builtin else "text"


@dataclass(frozen=True)
class Table:
    """A source table and what `make onboard` makes of it; `filled_elsewhere` as the catalog's function says it."""

    source: str
    schema: str
    identifier: str
    comment: str | None
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    indexed: frozenset[str]
    foreign_keys: dict[str, tuple[str, str, str]]
    filled_elsewhere: str | None = None

    @cached_property
    def name(self) -> str:
        """Its name in dbt, in raw and in task ids."""
        return slug(self.identifier)

    @property
    def entity(self) -> str:
        """One of its rows: `category` for `categories`."""
        plural = self.name
        if plural.endswith("ies"):
            return plural.removesuffix("ies") + "y"
        return re.sub(r"(?<=ss|sh|ch|.x)es$|(?<=[^su])s$", "", plural)

    @property
    def model(self) -> str:
        """The staging model's name."""
        return f"stg_{self.source}__{self.name}"

    @property
    def description(self) -> str:
        """The table's comment, ended by its grain."""
        said = (self.comment or f"{self.name.replace('_', ' ').capitalize()} of {self.source}").strip().rstrip(".")
        grain = f" One row per {' and '.join(self.key)}." if len(self.key) > 1 else f" One row per {self.entity}."
        return said + "." + (grain if self.key else "")

    @cached_property
    def cursor(self) -> str | None:
        """The column to read from a watermark on: its name promises it, it has a time zone and is never NULL."""
        if self.filled_elsewhere:
            return None
        found = [each.name for each in self._stamps if "with time zone" in each.type and each.is_not_null]
        return min(found, key=lambda name: (name not in self.indexed, name)) if found else None

    @property
    def _stamps(self) -> list[Column]:
        return [each for each in self.columns if CURSOR.search(each.name) and each.type.startswith("timestamp")]

    @property
    def extract(self) -> dict[str, Any]:
        """Its entry under `config.meta.extract`."""
        entry: dict[str, Any] = {"key": list(self.key)} if self.key else {}
        entry |= {"cursor": self.cursor} if self.key and self.cursor else {"mode": "full"}
        if self.key and not self.cursor:
            entry["deletes"] = "soft"
        if self.schema != "public":
            entry["schema"] = self.schema
        if self.identifier != self.name:
            entry["identifier"] = self.identifier
        foreign = {each.name: "text" for each in self.columns if not each.is_builtin}
        return entry | ({"columns": foreign} if foreign else {})

    @property
    def remarks(self) -> list[str]:
        """What a person should look at before the first run."""
        said = []
        if not self.key:
            said.append("no primary key and no unique index over NOT NULL columns: all rows are replaced in every run")
        elif self.filled_elsewhere:
            said.append(f"{self.filled_elsewhere}, and no cursor shows when its rows appear: every run reads all of it")
        elif not self.cursor:
            why = [f"{each.name} is {each.type}{'' if each.is_not_null else ', nullable'}" for each in self._stamps]
            said.append(
                f"no cursor ({'; '.join(why) or 'no column is named like updated_at'}): every run reads all of it; "
                "declare `cursor:` (with `cursor_zone:` or `null_cursor:`) where one is kept by all writers"
            )
        elif self.cursor not in self.indexed:
            said.append(f"{self.cursor} has no index: every run scans the table; create one in the source")
        said += [f"{each.name} is {each.type}: loaded as text" for each in self.columns if not each.is_builtin]
        return said

    def staged_name(self, column: str) -> str:
        """The column's name in the staging model: generic names get the entity before them."""
        plain = slug(column)
        return f"{self.entity}_{plain}" if plain in GENERIC else plain

    def grouped(self) -> list[tuple[str, list[Column]]]:
        """Columns in the order of staging models: ids, strings, numerics, booleans, times."""
        groups: dict[str, list[Column]] = {name: [] for name in GROUPS}
        for each in self.columns:
            is_id = each.name in self.key or each.name in self.foreign_keys or slug(each.name).endswith("_id")
            groups["ids" if is_id else _GROUP_OF_CATEGORY.get(each.category, "strings")].append(each)
        return list(groups.items())


def slug(name: str) -> str:
    """A name that dbt, task ids and plain SQL accept."""
    words = re.sub(r"[^0-9A-Za-z]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).strip("_").lower()
    return words if words and not words[0].isdigit() else f"t_{words}".rstrip("_")


def read_table(connection: Connection, source: str, schema: str, identifier: str) -> Table:
    """Read one table's shape from the catalog.

    Raises:
        ConfigError: it does not exist, is no table or view, or has columns that loading adds itself.
    """
    relation = relation_text(schema, identifier)
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(statement("table_shape"), {"relation": relation}).fetchone()
    if found is None or found["relkind"] not in ("r", "p", "v", "m", "f"):
        what = "does not exist" if found is None else "is no table"
        raise ConfigError(
            f"{relation} {what} in database {connection.info.dbname!r}; name tables with TABLES= and SCHEMA="
        )
    columns = tuple(Column(**each) for each in found["columns"] or ())
    if taken := {each.name for each in columns} & set(LOADED_COLUMNS):
        raise ConfigError(
            f"{relation}: column {sorted(taken)[0]!r} is a name that loading adds; rename it in the source"
        )
    return Table(
        source=source,
        schema=schema,
        identifier=identifier,
        comment=found["description"],
        columns=columns,
        key=tuple(found["key"]),
        indexed=frozenset(found["indexed"]),
        foreign_keys={
            each["column_name"]: (each["parent_schema"], each["parent_table"], each["parent_column"])
            for each in found["foreign_keys"]
        },
        filled_elsewhere=filled_elsewhere(connection, schema, identifier),
    )
