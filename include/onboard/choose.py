"""Which tables of a source are onboarded: all that the role may read, or what a person's patterns choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from include.errors import ConfigError
from include.onboard.shape import Table


@dataclass(frozen=True)
class Asked:
    """What a person asks `make onboard` for.

    Attributes:
        source: Name of the dbt source, and of the connection.
        tables: Whole names, in `schema` unless they say their own.
        include: Patterns such as `sales.*` or `*_log`, with `*`, `?` and `[…]`; without a dot, in any schema.
        exclude: Patterns of what stays out.
        zone: IANA time zone of stamps that have none; None where nobody knows.
        transformer: The role that runs dbt in the warehouse.
    """

    source: str
    tables: tuple[str, ...] = ()
    schema: str = "public"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    zone: str | None = None
    transformer: str = "dbt_transformer"


@dataclass(frozen=True)
class Choice:
    """The tables that are onboarded, and why others are not, by their place as a person writes it."""

    tables: list[Table]
    left_out: dict[str, str]


def choose(tables: Sequence[Table], asked: Asked) -> Choice:
    """Take what was asked for.

    Raises:
        ConfigError: a name or pattern fits nothing.
    """
    named = {place for name in asked.tables for place in _named(tables, asked, name)}
    named |= {table.place for table in tables if any(pattern == _shown(table) for pattern in asked.include)}
    for pattern in asked.include:
        if not any(fits(pattern, table) for table in tables):
            raise ConfigError(f"INCLUDE={pattern!r} fits no table of source {asked.source}; PREVIEW=1 lists them")
    chosen, left_out = [], {}
    for table in tables:
        is_named = table.place in named
        is_asked = is_named or any(fits(pattern, table) for pattern in asked.include)
        if (asked.tables or asked.include) and not is_asked:
            continue
        if any(fits(pattern, table) for pattern in asked.exclude):
            left_out[_shown(table)] = "EXCLUDE= says so"
        elif obstacle := table.obstacle(is_named=is_named):
            left_out[_shown(table)] = obstacle
        elif not is_asked and not table.is_readable:
            left_out[_shown(table)] = "the role may not read it; name it in INCLUDE= to have its grant written"
        else:
            chosen.append(table)
    return Choice(chosen, left_out)


def fits(pattern: str, table: Table) -> bool:
    """Whether a pattern means a table."""
    if pattern in (_shown(table), table.identifier):
        return True
    return fnmatchcase(_shown(table), pattern) or ("." not in pattern and fnmatchcase(table.identifier, pattern))


def _named(tables: Sequence[Table], asked: Asked, name: str) -> list[tuple[str, str]]:
    exact = [table.place for table in tables if table.place == (asked.schema, name) or _shown(table) == name]
    if not exact:
        raise ConfigError(
            f'"{asked.schema}"."{name}" does not exist in the database of source {asked.source}; name tables with '
            f"TABLES= and SCHEMA=, all that there are with PREVIEW=1"
        )
    return exact


def _shown(table: Table) -> str:
    return f"{table.schema}.{table.identifier}"
