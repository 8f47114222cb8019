"""`make onboard`: the dbt source entry, staging model, tests and grants of tables that exist in a source database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from include.errors import ConfigError
from include.onboard import report
from include.onboard.choose import Asked, Choice, choose
from include.onboard.grants import Reader, reader_of
from include.onboard.shape import Table, read_tables
from include.onboard.trial import Trial, at_fault, in_a_copy, refused_by
from include.onboard.write import Written, files_for, with_names
from include.postgres.sessions import Connection
from include.sources import Tables, TableSpec


@dataclass(frozen=True)
class Found:
    """What there is to write and to say; nothing is written yet."""

    choice: Choice
    made: Written
    gone: list[str]
    root: Path
    reader: Reader

    @property
    def summary(self) -> str:
        """For the screen."""
        return report.summary(self.choice, self.made, self.gone, self.reader)

    @property
    def details(self) -> str:
        """For the file."""
        return report.details(self.choice, self.made, self.gone, self.root)


def look(
    source: Connection,
    warehouse: Connection,
    asked: Asked,
    listed: Tables,
    root: Path,
    trial: Trial | None = None,
) -> Found:
    """Look at a source, and work out what has to be written.

    Args:
        source: A session on the source.
        warehouse: A session on the warehouse.
        asked: What a person wants of it.
        listed: Tables that the project has already. One whose entry is wrong is left out, and its entry as it is.
        root: The checkout.
        trial: Tries what would be written; parses and renders a copy of the checkout where it is None.

    Raises:
        ConfigError: a name fits nothing, nothing is left, or a file of the project cannot be added to.
    """
    specs = list(listed.specs.values())
    tables = [replace(table, zone=asked.zone) for table in read_tables(source, asked.source, warehouse)]
    there = {table.place for table in tables}
    own = [spec for spec in specs if spec.source == asked.source]
    gone = [f"{spec.name}" for spec in own if (spec.schema_name, spec.identifier) not in there]
    choice = choose(tables, asked)
    if not choice.tables:
        why = "; ".join(f"{name}: {reason}" for name, reason in [*choice.left_out.items()][:3])
        raise ConfigError(f"source {asked.source} has no table to onboard for role {source.info.user!r} ({why})")
    choice = replace(choice, tables=with_names(choice.tables, specs))
    broken = {problem.name: f"mend its entry first: {problem.sentence}" for problem in listed.problems.values()}
    choice = _without(choice, {t.name: said for t in choice.tables if (said := broken.get(f"{t.source}.{t.name}"))})
    reader = reader_of(source, asked.source)
    roles = (warehouse.info.user, asked.transformer)

    def written(tables: Sequence[Table]) -> Written:
        return files_for(tables, specs, source, root, reader, roles)

    choice, made = _tried(choice, specs, written, warehouse, trial or in_a_copy(root))
    return Found(choice, made, gone, root, reader)


def _tried(
    choice: Choice,
    specs: Sequence[TableSpec],
    written: Callable[[Sequence[Table]], Written],
    warehouse: Connection,
    trial: Trial,
) -> tuple[Choice, Written]:
    """What of the choice passes, as it is written; the rest is left out, each table by itself."""
    made = written(choice.tables)
    texts = {name: made.files[path] for name, path in made.models.items() if path in made.files}
    refused = refused_by(warehouse, choice.tables, texts)
    choice = _without(choice, refused)
    if not choice.tables:
        return choice, Written()
    made = written(choice.tables) if refused else made
    if any(path.parent.name != "grants" for path in made.files) and (said := trial(made.files)):
        if alone := trial({}):
            raise ConfigError(f"the project cannot be parsed as it is, before anything is added to it: {alone}")
        known = {(spec.source, spec.table) for spec in specs}
        new = [table for table in choice.tables if (table.source, table.name) not in known]
        refused = at_fault(new, lambda tables: trial(written(tables).files))
        choice = _without(choice, refused)
        made = written(choice.tables) if choice.tables else Written()
        if not refused or (said := trial(made.files)):
            raise ConfigError(f"what would be written cannot be parsed, and no table alone is at fault: {said}")
    return choice, made


def _without(choice: Choice, refused: Mapping[str, str]) -> Choice:
    left = {f"{table.schema}.{table.identifier}": refused[t] for table in choice.tables if (t := table.name) in refused}
    return Choice([table for table in choice.tables if table.name not in refused], choice.left_out | left)
