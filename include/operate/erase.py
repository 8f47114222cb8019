"""The statements that take a person out: of the source, of raw, of what dbt has stored of him. Runs none of them.

What identifies him are the texts of his row that no other row of its table has: an address, a number, a name. His key
alone does not: it is a number like others, and what is left with it alone tells nobody who he was.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from psycopg import sql

from include.errors import ConfigError
from include.load.personal import SHORTEST, Found, holders
from include.postgres.sessions import Connection
from include.sources import LOADED_COLUMNS, TableSpec
from include.sql import statement

OUTSIDE = """\
-- Outside: backups, write-ahead logs, server logs and the logs of failed tasks; what a model made of a value that is
-- not the value itself; and rows that hold nothing of him but his key."""


def statements(loader: Connection, dbt: Connection, spec: TableSpec, key: Sequence[str]) -> list[str]:
    """Lines to be run by hand, comments among them that say where.

    Args:
        loader: A pinned session of the loader role.
        dbt: One of dbt's role.
        spec: The table with the person's row.
        key: The values of its key, as text.

    Raises:
        ConfigError: the key has another number of columns, or raw has no such row.
    """
    if not spec.key or len(key) != len(spec.key):
        raise ConfigError(f'{spec.name}: write KEY="…" with the value of each of {list(spec.key)}')
    pairs = [sql.SQL("{}::text = {}").format(sql.Identifier(name), value) for name, value in zip(spec.key, key)]
    where = sql.SQL(" and ").join(pairs)
    values = _telling(loader, spec, where)
    digests = [sha256(value.encode()).hexdigest() for value in values]
    found = dict.fromkeys(holders(loader, digests, with_raw=True) + holders(dbt, digests, with_raw=True))
    raw = sql.Identifier(spec.raw_schema, spec.table)
    delete = sql.SQL("delete from {} where {};")
    source = delete.format(sql.Identifier(spec.schema_name, spec.identifier), where).as_string()
    return [
        f"-- 1. In the source {spec.source}, before all else: what is left there, the next run brings again.",
        source,
        "-- 2. In the warehouse, as its administrator (`make psql`).",
        delete.format(raw, where).as_string(),
        *(_delete(each, values) for each in found if (each.schema, each.table) != (spec.raw_schema, spec.table)),
        "-- 3. There, as a superuser: files hold what was deleted until they are written anew.",
        "analyze;",
        "vacuum full;",
        OUTSIDE,
    ]


def _telling(loader: Connection, spec: TableSpec, where: sql.Composable) -> list[str]:
    """The texts of a row that no other row has."""
    raw = sql.Identifier(spec.raw_schema, spec.table)
    if not loader.execute(sql.SQL("select 1 from {} where {}").format(raw, where)).fetchone():
        raise ConfigError(f"{spec.name}: raw has no row with this key; write it as the source has it")
    columns = loader.execute(statement("text_columns"), {"with_raw": True}).fetchall()
    own = [name for *place, name in columns if place == [spec.raw_schema, spec.table] and name not in LOADED_COLUMNS]
    values = []
    for name in own:
        column = sql.Identifier(name)
        query = sql.SQL(
            "select min({0}) from {1} where {0} in (select {0} from {1} where {2}) and length({0}) >= {3} "
            "having count(*) = 1"
        )
        row = loader.execute(query.format(column, raw, where, sql.Literal(SHORTEST))).fetchone()
        if row and row[0]:
            values.append(row[0])
    return sorted(set(values))


def _delete(found: Found, values: Sequence[str]) -> str:
    """The statement that takes out rows with one of the values."""
    texts = sql.SQL(", ").join(map(sql.Literal, values)).as_string()
    delete = sql.SQL("delete from {} where {} in ").format(found.relation, sql.Identifier(found.column))
    return f"{delete.as_string()}({texts}); -- {found.rows:,}"
