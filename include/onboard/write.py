"""The files that add tables to the project, and what they say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from include.errors import ConfigError
from include.files import write_whole
from include.onboard import additions
from include.onboard.checks import Places, places_of, references_of, tests_of
from include.onboard.grants import Reader, grants_for
from include.onboard.names import as_text, fitting, free, in_model, on_one_line, slug
from include.onboard.shape import Column, Table
from include.onboard.staging import OWN, Staged, columns_of_model, model_text, staged
from include.postgres.sessions import Connection
from include.sources import LOADED_COLUMNS, TableSpec
from include.sql import statement


@dataclass(frozen=True)
class Written:
    """What onboarding makes of the project.

    Attributes:
        files: Whole new contents by path: of files that are new or change, no others.
        models: Staging models among them, by the table's name.
        said: What a person is told, by the table's name.
    """

    files: dict[Path, str] = field(default_factory=dict)
    models: dict[str, Path] = field(default_factory=dict)
    said: dict[str, list[str]] = field(default_factory=dict)

    def say(self, table: str, text: str) -> None:
        """Keep something to tell."""
        self.said.setdefault(table, []).append(text)


def files_for(
    tables: Sequence[Table],
    specs: Sequence[TableSpec],
    connection: Connection,
    root: Path,
    reader: Reader,
    roles: tuple[str, str],
) -> Written:
    """The files that bring tables into the project, or the project up to the tables.

    What is there stays: entries get columns that they lack, a staging model is written again where a person did not
    write something else into it.

    Args:
        tables: Tables of one source, named (`with_names`).
        specs: Tables that the project has already.
        connection: A session on the source.
        root: The checkout.
        reader: Whom the source's tables are opened to.
        roles: Who loads, and who runs dbt, in the warehouse.

    Raises:
        ConfigError: a file there cannot be added to.
    """
    made = Written()
    source = tables[0].source
    project = _Project(root, source, {row[0] for row in connection.execute(statement("reserved_words")).fetchall()})
    known = {spec.table for spec in specs if spec.source == source}
    parents = places_of(tables, specs)
    entries, models = [], []
    for table in tables:
        if table.name in known:
            _bring_up_to_date(made, table, project, parents)
            continue
        columns = [_column(each, tests_of(table, each, parents, project.tests)) for each in table.loaded]
        tests = references_of(table, None, parents, project.tests)
        entries.append(_render("table.yml", table=table, columns=columns, tests=tests))
        model = project.free_model(table)
        written = staged(table, project.reserved)
        made.models[table.name] = project.folder / f"{model}.sql"
        made.files[made.models[table.name]] = model_text(source, table.name, written)
        models.append(_model(table, model, written))
    if entries and project.is_new:
        made.files[project.sources] = _render("source.yml", source=source) + "\n".join(entries)
    elif entries:
        project.add(project.sources, ("sources", source, "tables"), entries)
    if models and project.described not in project.texts:
        made.files[project.described] = "models:\n" + "\n".join(models)
    elif models:
        project.add(project.described, ("models",), models)
    for path, added in project.added.items():
        made.files[path] = additions.add(path, project.texts[path], added)
    made.files.update(grants_for(reader, tables, specs, connection, roles, root / "deploy" / "grants"))
    for path, text in [*made.files.items()]:
        if path.exists() and path.read_text(encoding="utf-8") == text:
            del made.files[path]
    return made


def _yaml_files(project: Path) -> Iterator[Path]:
    """Of the project itself: dbt keeps what it compiled in folders that are called like its files."""
    for path in sorted(project.rglob("*.yml")):
        if path.relative_to(project).parts[0] not in ("target", "dbt_packages") and path.is_file():
            yield path


class _Project:
    """What the project has, and what is added to its YAML files.

    Args:
        reserved: Words that are no plain names of columns.
    """

    def __init__(self, root: Path, source: str, reserved: set[str]) -> None:
        self.source = source
        self.reserved = reserved
        self.folder = root / "dbt" / "models" / "staging" / source
        self.texts = {path: path.read_text(encoding="utf-8") for path in _yaml_files(root / "dbt")}
        self.tests = {
            name for text in self.texts.values() for name in re.findall(r"^ +name: ([\w.]+)$", text, re.MULTILINE)
        }
        self.models = {path.stem for path in (root / "dbt" / "models").rglob("*.sql")}
        declared = (path for path, text in self.texts.items() if self._declares(text))
        self.sources = next(declared, self.folder / "_sources.yml")
        self.described = self.folder / "_models.yml"
        self.added: dict[Path, list[additions.Addition]] = {}

    def _declares(self, text: str) -> bool:
        return "sources:" in text and self.source in additions.names_in(text, ["sources"])

    @property
    def is_new(self) -> bool:
        """Whether no file declares the source.

        Raises:
            ConfigError: its file declares others.
        """
        text = self.texts.get(self.sources)
        if text is not None and not self._declares(text):
            raise ConfigError(f"{self.sources}: declares no source {self.source!r}; rename the file, or add it there")
        return text is None

    def free_model(self, table: Table) -> str:
        """A name for a new staging model."""
        return free([f"stg_{table.source}__{table.name}"], self.models, table.name)

    def names(self, path: Path, *place: str) -> list[str]:
        """Names of the entries of a list in one of the files."""
        return additions.names_in(self.texts.get(path, ""), place)

    def add_labels(self, tests: Iterable[Mapping[str, Any]]) -> list[str]:
        """Have tests that are as they were written here accept what they accept now; returns what is new of it."""
        added = []
        for test in tests:
            line = rf"^ +name: {test['name']}\n +arguments:\n +values: (\[.*\])$"
            if found := re.search(line, self.texts.get(self.sources, ""), re.MULTILINE):
                known = yaml.safe_load(found[1])
                if new := [label for label in test["arguments"]["values"] if label not in known]:
                    text, values = self.texts[self.sources], on_one_line([*known, *new])
                    self.texts[self.sources] = text[: found.start(1)] + values + text[found.end(1) :]
                    self.added.setdefault(self.sources, [])
                    added += new
        return added

    def add(self, path: Path, place: tuple[str, ...], blocks: Iterable[str], before: tuple[str, ...] = ()) -> None:
        """Add to a list in one of the files."""
        self.added.setdefault(path, []).append(additions.Addition(place, tuple(blocks), before))


def write(files: Mapping[Path, str]) -> None:
    """Write all files, each in one step."""
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text, is_private=False)


def with_names(tables: Sequence[Table], specs: Sequence[TableSpec]) -> list[Table]:
    """The tables with their names in dbt: those that they have there; for new ones, the plain name unless it would
    stand for two, then one that says the schema."""
    if not tables:
        return []
    source = tables[0].source
    have = {(spec.schema_name, spec.identifier): spec.table for spec in specs if spec.source == source}
    taken = set(have.values())
    wanted = Counter(slug(table.identifier) for table in tables if table.place not in have)
    named: dict[tuple[str, str], str] = dict(have)
    for table in sorted(tables, key=lambda table: (table.identifier != slug(table.identifier), table.place)):
        if table.place in have:
            continue
        plain = slug(table.identifier)
        alike = {other.schema for other in tables if slug(other.identifier) == plain}
        candidates = [f"{slug(table.schema)}_{plain}"]
        if wanted[plain] == 1 or len(alike) == 1:
            candidates = [plain, *candidates]
        named[table.place] = free(candidates, taken, f"{table.schema}.{table.identifier}")
    return [replace(table, name=named[table.place]) for table in tables]


def _bring_up_to_date(made: Written, table: Table, project: _Project, parents: Places) -> None:
    """Columns that the source has and the project has not; what a person wrote stays."""
    place = ("sources", table.source, "tables", table.name, "columns")
    have = project.names(project.sources, *place)
    gone = {*have} - {as_text(each.name) for each in table.columns} - {*LOADED_COLUMNS, ""}
    if gone:
        made.say(table.name, f"gone from the source: {', '.join(sorted(gone))}; raw keeps them, NULL from now on")
    new = [each for each in table.loaded if as_text(each.name) not in have] if have else []
    if new:
        blocks = [_column(each, tests_of(table, each, parents, project.tests)) for each in new]
        project.add(project.sources, place, blocks, LOADED_COLUMNS)
        made.say(table.name, f"new columns: {', '.join(each.name for each in new)}")
    names: set[str] = set()
    for column in table.loaded:
        if labels := project.add_labels(tests_of(table, column, {}, names)):
            shown = ", ".join(label.replace("''", "'") for label in labels)
            made.say(table.name, f"new values of {column.name}: {shown}")
    path = project.folder / f"{fitting(f'stg_{table.source}__{table.name}')}.sql"
    if not new or not path.exists():
        return
    old = path.read_text(encoding="utf-8")
    before = columns_of_model(old, table.source, table.name)
    missing = [each for each in new if in_model(each.quoted) not in old]
    if before is None and missing:
        lines = [f"        {each}," for each in staged(replace(table, columns=tuple(missing)), project.reserved)]
        made.say(table.name, f"{path.name} is a person's, and stays; what it lacks:\n" + "\n".join(lines))
    if before is None:
        return
    after = staged(table, project.reserved, before)
    made.files[path] = model_text(table.source, table.name, after)
    made.models[table.name] = path
    if project.names(project.described, "models", path.stem, "columns"):
        described = _described(table, [each for each in after if each not in before])
        project.add(project.described, ("models", path.stem, "columns"), described, OWN)


def _column(column: Column, tests: list[dict[str, Any]]) -> str:
    return _render("column.yml", column=column, tests=tests)


def _described(table: Table, columns: Sequence[Staged]) -> Iterator[str]:
    described = {in_model(each.quoted): each for each in table.columns}
    for each in columns:
        if each.expression in described:
            yield _render("staged.yml", staged=each.name, column=described[each.expression])


def _model(table: Table, model: str, columns: Sequence[Staged]) -> str:
    said = table.description.removesuffix(table.grain).rstrip()
    description = f"{said} Renamed; deleted ones are kept and marked. {table.grain}".rstrip()
    return _render("model.yml", model=model, description=description, columns=_described(table, columns))


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    autoescape=False,
)
_TEMPLATES.filters |= {"yaml": on_one_line}


def _render(name: str, **values: Any) -> str:
    return _TEMPLATES.get_template(f"{name}.jinja").render(**values)
