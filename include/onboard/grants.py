"""The rights that a source needs: a file for each server, to which a second onboarding adds and of which it removes
nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

from include.onboard.names import fitting
from include.onboard.shape import Table
from include.postgres.sessions import Connection, identifiers
from include.sources import TableSpec
from include.sql import statement

_SOURCE = """\
-- Rerunnable. What the pipeline needs of source {source}, and no more. `make onboard` wrote it, and adds lines to it;
-- what you add stays. As a superuser, in that database: psql -v ON_ERROR_STOP=1 -f deploy/grants/{source}.source.sql
do $onboard$
begin
    if not exists (select from pg_roles where rolname = {literal}) then
        create role {role} login; -- its password: \\password
    end if;
end
$onboard$;
"""

_WAREHOUSE = """\
-- Rerunnable. What the pipeline needs in the warehouse for source {source}. `make onboard` wrote it, and adds lines to
-- it; what you add stays. As a superuser: psql -v ON_ERROR_STOP=1 -f deploy/grants/{source}.warehouse.sql
"""


@dataclass(frozen=True)
class Reader:
    """The role that is granted what a source needs, and why it is not the connection's own; None where it is."""

    name: str
    why: str | None

    @property
    def quoted(self) -> str:
        """As SQL writes it."""
        return _quoted(self.name)


def reader_of(source: Connection, name: str) -> Reader:
    """The connection's role where all it does is read; else one of its own, for no right of another is ever changed.

    Args:
        source: A session on the source.
        name: The source's name in dbt.
    """
    user = source.info.user
    why = _does_more(source, user)
    if why is None:
        return Reader(user, None)
    own = (fitting(f"{name}_{suffix}") for suffix in ("reader", "elt_reader", "elt_reads"))
    return Reader(next(each for each in own if _does_more(source, each) is None), f"role {user} {why}")


def grants_for(
    reader: Reader,
    tables: Sequence[Table],
    specs: Iterable[TableSpec],
    source: Connection,
    roles: tuple[str, str],
    folder: Path,
) -> dict[Path, str]:
    """Both files, with what they hold already.

    Args:
        reader: Whom the source's tables are opened to.
        tables: All that is onboarded.
        specs: The project's tables; their `columns: omit` is not opened.
        source: A session on the source.
        roles: Who loads, and who runs dbt, in the warehouse.
        folder: Where they are.
    """
    name = tables[0].source
    database = _quoted(source.info.dbname)
    omitted = {(spec.schema_name, spec.identifier): spec.columns for spec in specs if spec.source == name}
    blocks = [
        f"grant connect on database {database} to {reader.quoted};",
        f"grant pg_read_all_stats to {reader.quoted}; -- to see when other sessions began their transactions",
        f"alter role {reader.quoted} in database {database} set default_transaction_read_only = on;",
        *(
            f"grant usage on schema {schema} to {reader.quoted};"
            for schema in sorted({_quoted(t.schema) for t in tables})
        ),
        *(_select(table, omitted.get(table.place, {}), reader) for table in tables),
    ]
    header = _SOURCE.format(source=name, role=reader.quoted, literal=sql.Literal(reader.name).as_string())
    loader, transformer = (_quoted(role) for role in roles)
    raw = _quoted(f"raw_{name}")
    opened = [
        f"create schema if not exists {raw} authorization {loader};",
        f"grant usage on schema {raw} to {transformer};",
        f"alter default privileges for role {loader} in schema {raw} grant select on tables to {transformer};",
    ]
    paths = [folder / f"{name}.{server}.sql" for server in ("source", "warehouse")]
    return {
        paths[0]: _merged(paths[0], header, blocks),
        paths[1]: _merged(paths[1], _WAREHOUSE.format(source=name), opened),
    }


def _select(table: Table, treated: Mapping[str, str], reader: Reader) -> str:
    closed = {each.name for each in table.omitted} | {name for name, how in treated.items() if how == "omit"}
    if not closed:
        return f"grant select on {table.relation} to {reader.quoted};"
    opened = identifiers([each.name for each in table.columns if each.name not in closed]).as_string()
    # What an earlier line may have opened.
    return (
        f"revoke select on {table.relation} from {reader.quoted};\n"
        f"grant select ({opened}) on {table.relation} to {reader.quoted};"
    )


def _merged(path: Path, header: str, blocks: list[str]) -> str:
    text = path.read_text(encoding="utf-8").rstrip("\n") + "\n" if path.exists() else header
    lines = set(text.splitlines())
    new = [block for block in blocks if (block not in lines if "\n" not in block else f"\n{block}\n" not in text)]
    return text + "".join(f"{block}\n" for block in new)


def _does_more(source: Connection, role: str) -> str | None:
    row = source.execute(statement("role_rights"), {"role": role}).fetchone()
    return row[0] if row else None


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()
