"""Write what `make onboard` found: everything, or nothing where one piece does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from psycopg import sql

from include.errors import ConfigError
from include.files import write_whole
from include.onboard.shape import Table, slug
from include.sessions import Connection, relation_text
from include.sources import TableSpec


def files_for(
    tables: Sequence[Table], specs: Sequence[TableSpec], connection: Connection, root: Path
) -> dict[Path, str]:
    """The files that add tables to the project, by path, with their whole new contents.

    Args:
        tables: Tables of one source, to be added.
        specs: Tables that the project has already.
        connection: A session on the source; its role is the one that is granted what it needs.
        root: The checkout.

    Raises:
        ConfigError: a table is listed already, two would share a name, or a file there cannot be added to.
    """
    source = tables[0].source
    folder = root / "dbt" / "models" / "staging" / source
    _refuse_doubles(tables, specs, folder)
    parents = _parents(tables, specs)
    entries = [_render("table.yml", table=table, parents=parents) for table in tables]
    models = [_render("model.yml", table=table) for table in tables]
    header = _render("source.yml", source=source)
    made = {folder / f"{table.model}.sql": _render("model.sql", table=table) for table in tables}
    made[folder / "_sources.yml"] = _extended(folder / "_sources.yml", header, entries, "")
    made[folder / "_models.yml"] = _extended(folder / "_models.yml", "models:\n", models, "\n")
    made[root / "deploy" / "grants" / f"{source}.sql"] = _grants(tables, specs, connection)
    return made


def write(files: dict[Path, str]) -> None:
    """Write all files, each in one step."""
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text, is_private=False)


def _refuse_doubles(tables: Sequence[Table], specs: Sequence[TableSpec], folder: Path) -> None:
    listed = {(spec.source, spec.table) for spec in specs}
    names: set[str] = set()
    for table in tables:
        if (table.source, table.name) in listed or (folder / f"{table.model}.sql").exists():
            raise ConfigError(f"{table.source}.{table.name} is in the project already; leave it out of TABLES=")
        if table.name in names:
            raise ConfigError(
                f"two of the tables would be called {table.name!r}; onboard one and name the other by hand"
            )
        names.add(table.name)


def _parents(tables: Sequence[Table], specs: Sequence[TableSpec]) -> dict[tuple[str, str], tuple[str, str, str]]:
    """(table, column) → (source, table, column) of foreign keys whose parent is in the project too."""
    known = {(spec.schema_name, spec.identifier): spec.table for spec in specs if spec.source == tables[0].source}
    known |= {(table.schema, table.identifier): table.name for table in tables}
    return {
        (table.name, column): (table.source, known[schema, parent], field)
        for table in tables
        for column, (schema, parent, field) in table.foreign_keys.items()
        if (schema, parent) in known
    }


def _extended(path: Path, header: str, blocks: list[str], between: str) -> str:
    """The file with blocks added to its last list, or a new file.

    Raises:
        ConfigError: the file does not end in that list; nothing was written.
    """
    before = path.read_text(encoding="utf-8").rstrip("\n") + "\n" + between if path.exists() else header
    text = before + ("\n" if header.startswith("sources") else between).join(blocks)
    wanted = _entries(before) + [entry for block in blocks for entry in yaml.safe_load(block)]
    try:
        is_right = _entries(text) == wanted
    except yaml.YAMLError:
        is_right = False
    if not is_right:
        raise ConfigError(
            f"{path}: does not end in the list that the new entries belong to, so they were not added; "
            "move that list to the end of the file and try again"
        )
    return text


def _entries(text: str) -> list[Any]:
    document = yaml.safe_load(text)
    if "models" in document:
        return document["models"] or []
    return document["sources"][-1]["tables"] or []


def _grants(tables: Sequence[Table], specs: Sequence[TableSpec], connection: Connection) -> str:
    source = tables[0].source
    places = {(spec.schema_name, spec.identifier) for spec in specs if spec.source == source}
    places |= {(table.schema, table.identifier) for table in tables}
    return _render(
        "grants.sql",
        source=source,
        role=_quoted(connection.info.user),
        database=_quoted(connection.info.dbname),
        schemas=sorted({_quoted(schema) for schema, _ in places}),
        relations=sorted(relation_text(*place) for place in places),
        raw_schema=_quoted(f"raw_{source}"),
    )


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6).removesuffix("...\n").strip()


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    autoescape=False,
)
_TEMPLATES.filters |= {"yaml": _flow, "slug": slug}


def _render(name: str, **values: Any) -> str:
    return _TEMPLATES.get_template(f"{name}.jinja").render(**values)
