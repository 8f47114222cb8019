"""What the source's catalog says of its tables, and what follows from it for dbt and the extraction."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from psycopg import DatabaseError, sql
from psycopg.errors import FeatureNotSupported

from include.onboard.names import slug
from include.postgres.catalog import MAX_COLUMNS, NAMES_OF_OBJECTS
from include.postgres.sessions import Connection, identifiers, relation_text
from include.schema.proof import unproven
from include.sources import LOADED_COLUMNS
from include.sql import statement

CURSOR = re.compile(r"(updated|modified|changed)(_?(at|on|ts|time|date))?$|^last_?(update|modif|change)", re.IGNORECASE)
"""Names of columns that every insert and update moves, by custom."""

KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
"""What can be read and is no table: loaded where it is named."""


@dataclass(frozen=True)
class Column:
    """A source column.

    Attributes:
        quoted: Its name as SQL writes it.
        type: Without length, precision or scale; of a domain its base type.
        category: PostgreSQL's `typcategory`.
        labels: Of an enum.
        is_kept: A trigger sets it in every update.
        is_text: Read as text, since the warehouse has no such type.
    """

    name: str
    quoted: str
    type: str
    is_not_null: bool
    is_builtin: bool
    category: str
    description: str | None
    is_readable: bool = True
    labels: tuple[str, ...] | None = None
    is_kept: bool = False
    is_text: bool = False


@dataclass(frozen=True)
class ForeignKey:
    """Columns, and those that they refer to.

    Attributes:
        is_of_one_type: Each column has the type of the one it refers to.
    """

    columns: list[str]
    schema: str
    table: str
    parent_columns: list[str]
    parent_quoted: list[str]
    is_of_one_type: bool


@dataclass(frozen=True)
class Table:
    """A source table and what `make onboard` makes of it.

    Attributes:
        name: Its name in dbt, in raw and in task ids.
        bytes: What it takes on the source's disk, partitions and children included.
        filled_elsewhere: Why the catalog does not prove that a cursor shows every change of it.
        zone: The time zone of stamps that have none; None where nobody said it.
    """

    source: str
    schema: str
    identifier: str
    relkind: str
    comment: str | None
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    indexed: frozenset[str]
    foreign_keys: tuple[ForeignKey, ...]
    extension: str | None
    is_partition: bool
    is_child: bool
    has_children: bool
    is_subscribed: bool
    may_use_schema: bool
    hides_rows: bool
    bytes: int
    name: str = ""
    filled_elsewhere: str | None = None
    zone: str | None = None

    @property
    def place(self) -> tuple[str, str]:
        """Where it is in the source."""
        return self.schema, self.identifier

    @property
    def relation(self) -> str:
        """Its place as SQL writes it."""
        return relation_text(*self.place)

    @property
    def is_readable(self) -> bool:
        """Whether the role may read any of it."""
        return self.may_use_schema and any(each.is_readable for each in self.columns)

    @property
    def entity(self) -> str:
        """One of its rows: `category` for `categories`."""
        plural = self.name
        if plural.endswith("ies"):
            return plural.removesuffix("ies") + "y"
        return re.sub(r"(?<=ss|sh|ch|.x)es$|(?<=[^su])s$", "", plural)

    @property
    def description(self) -> str:
        """The table's comment, ended by its grain."""
        said = (self.comment or f"{self.name.replace('_', ' ').capitalize()} of {self.source}").strip().rstrip(".")
        return f"{said}. {self.grain}".rstrip()

    @property
    def grain(self) -> str:
        """What one of its rows is."""
        if not self.key:
            return ""
        return f"One row per {' and '.join(self.key) if len(self.key) > 1 else self.entity}."

    @cached_property
    def omitted(self) -> tuple[Column, ...]:
        """Columns that the role may not read, of a table that it may read."""
        return tuple(each for each in self.columns if not each.is_readable) if self.is_readable else ()

    @cached_property
    def loaded(self) -> tuple[Column, ...]:
        """The columns that raw has."""
        return tuple(each for each in self.columns if each not in self.omitted)

    @cached_property
    def cursor(self) -> Column | None:
        """The column to read from a watermark on: its name promises it, and an instant follows from it."""
        if self.filled_elsewhere or not self.key:
            return None
        found = [each for each in self._stamps if self.zone or "with time zone" in each.type]
        return min(
            found, key=lambda each: (not each.is_not_null, each.name not in self.indexed, each.name), default=None
        )

    @property
    def has_zoneless_stamp(self) -> bool:
        """Whether a time zone would make a cursor of one of its columns."""
        return bool(self._stamps)

    @property
    def _stamps(self) -> list[Column]:
        return [
            each
            for each in self.loaded
            if CURSOR.search(each.name) and each.category == "D" and each.type.startswith("timestamp")
        ]

    @property
    def extract(self) -> dict[str, Any]:
        """Its entry under `config.meta.extract`."""
        entry: dict[str, Any] = {"key": list(self.key)} if self.key else {}
        if self.cursor:
            entry["cursor"] = self.cursor.name
            if not self.cursor.is_not_null:
                entry["null_cursor"] = "always"
            if "without" in self.cursor.type:
                entry |= {"cursor_zone": self.zone, "overlap": "1 hour"}
        else:
            entry["mode"] = "full"
        if self.key:
            entry["deletes"] = "soft"
        if self.schema != "public":
            entry["schema"] = self.schema
        if self.identifier != self.name:
            entry["identifier"] = self.identifier
        treated = {each.name: "omit" for each in self.omitted} | {e.name: "text" for e in self.loaded if e.is_text}
        return entry | ({"columns": treated} if treated else {})

    @property
    def remarks(self) -> list[str]:
        """What a person should look at before the first run."""
        said = []
        if not self.key:
            why = (
                "others inherit from it, and share keys"
                if self.has_children
                else "no primary key and no unique index over NOT NULL columns that may be read"
            )
            said.append(f"{why}: all rows are replaced in every run")
        elif self.filled_elsewhere:
            said.append(f"{self.filled_elsewhere}, and no cursor shows when its rows appear: every run reads all of it")
        elif not self.cursor:
            why = "; ".join(
                f"{each.name} is {each.type}: give its time zone with CURSOR_ZONE=" for each in self._stamps
            )
            said.append(f"no cursor ({why or 'no column is named like updated_at'}): every run reads all of it")
        else:
            said += self._of_cursor(self.cursor)
        said += [f"{each.name} may not be read: left out" for each in self.omitted]
        said += [f"{each.name} is {each.type}: loaded as text" for each in self.loaded if each.is_text]
        return said

    def _of_cursor(self, cursor: Column) -> list[str]:
        said = []
        if not cursor.is_kept:
            said.append(
                f"no trigger keeps {cursor.name}: an update that leaves it as it is is not read; `make reconcile` and "
                "the weekly DAG find it"
            )
        if cursor.name not in self.indexed:
            said.append(f"{cursor.name} has no index: every run scans the table; create one in the source")
        if not cursor.is_not_null:
            said.append(f"{cursor.name} may be NULL: such rows are read in every run")
        return said

    def obstacle(self, *, is_named: bool) -> str | None:
        """Why it is not onboarded, with what helps; None where it is.

        Args:
            is_named: A person asked for it by its whole name.
        """
        names = {each.name for each in self.columns}
        if names.issuperset(LOADED_COLUMNS) or self.schema == "_elt":
            return "this pipeline made it"
        if not self.columns:
            return "it has no columns"
        if taken := names & set(LOADED_COLUMNS):
            name = sorted(taken)[0]
            return (
                f"column {name!r} is a name that loading adds; rename it in the source, or write the table's entry by "
                f"hand with `columns: {{{name}: omit}}`"
            )
        if len(names) + len(LOADED_COLUMNS) > MAX_COLUMNS:
            return f"it has {len(names)} columns, more than fit beside those that loading adds; make a view of fewer"
        if self.hides_rows:
            return "row security hides rows from the role; `alter role … bypassrls` in the source, then onboard again"
        if is_named:
            return None
        if self.extension:
            return f"it belongs to the extension {self.extension}"
        if self.is_partition:
            return "it is a partition, and its rows come with the whole"
        if self.is_child:
            return "it inherits, and its rows come with the table above it; name it in TABLES= to have its own columns"
        if self.relkind in KINDS:
            return f"it is {KINDS[self.relkind]}; name it in TABLES= to load it all the same"
        return None


def read_tables(source: Connection, name: str, warehouse: Connection | None = None) -> list[Table]:
    """Every relation of a source that could be loaded, in the order of schema and name.

    Args:
        source: A session on it; needs no privilege on any table.
        name: The source's name in dbt.
        warehouse: Where they will be loaded: what types it lacks is read as text.
    """
    found = [_table(name, facts) for (facts,) in source.execute(statement("source_tables")).fetchall()]
    types = {column.type for table in found for column in table.columns if column.is_builtin}
    lacking = _lacking(warehouse, types) if warehouse else set()
    return [_finished(source, table, lacking) for table in found]


def _table(source: str, facts: dict[str, Any]) -> Table:
    columns = tuple(Column(**each | {"labels": each["labels"] and tuple(each["labels"])}) for each in facts["columns"])
    return Table(
        **facts
        | {
            "source": source,
            "name": slug(facts["identifier"]),
            "columns": columns,
            "key": tuple(facts["key"]),
            "indexed": frozenset(facts["indexed"]),
            "foreign_keys": tuple(ForeignKey(**each) for each in facts["foreign_keys"]),
        }
    )


def _finished(source: Connection, table: Table, lacking: set[str]) -> Table:
    columns = tuple(
        replace(
            column,
            is_text=not column.is_builtin or column.type in lacking or bool(NAMES_OF_OBJECTS.match(column.type)),
        )
        for column in table.columns
    )
    may_be = table.relkind != "r" or table.has_children or table.is_subscribed
    asked = may_be and table.may_use_schema and not table.is_partition
    elsewhere = unproven(source, *table.place, table.cursor.name if table.cursor else None) if asked else None
    is_closed = any(each.name in table.key for each in table.omitted)
    is_shared = table.key and table.has_children and table.is_readable and not is_closed and _is_shared(source, table)
    key = () if is_closed or is_shared else table.key
    return replace(table, columns=columns, key=key, filled_elsewhere=elsewhere)


def _is_shared(source: Connection, table: Table) -> bool:
    """Whether rows of a table and of those that inherit from it have one key: its index covers its own rows alone."""
    query = sql.SQL("select exists (select from {} group by {} having count(*) > 1)")
    try:
        row = source.execute(query.format(sql.Identifier(*table.place), identifiers(table.key))).fetchone()
    except DatabaseError:  # a foreign server may not answer; each load counts anyway
        return False
    return bool(row and row[0])


def _lacking(warehouse: Connection, types: set[str]) -> set[str]:
    """Those of the types that the warehouse does not know, or knows by name alone."""
    query = "select array_agg(type) from unnest(%s::text[]) as type where to_regtype(type) is null"
    row = warehouse.execute(query, (sorted(types),)).fetchone()
    return {*(row and row[0] or ())} | ({"xml", "xml[]"} if "xml" in types and not _has_xml(warehouse) else set())


def _has_xml(warehouse: Connection) -> bool:
    try:
        with warehouse.transaction():
            warehouse.execute("select cast('<a/>' as xml)")
    except FeatureNotSupported:
        return False
    return True
