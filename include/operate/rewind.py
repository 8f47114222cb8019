"""Rewind: the watermark a table has to be set back to, so that the next run reads again what a person names."""

from __future__ import annotations

from datetime import datetime

from include.errors import ConfigError
from include.postgres.sessions import Connection
from include.sources import TableSpec
from include.sql import statement
from include.state import ledger
from include.state.messages import to_text
from include.state.watermark import BEGINNING, read_instant


def rewind_mark(warehouse: Connection, spec: TableSpec, to: str) -> datetime:
    """The watermark to set.

    Args:
        warehouse: A warehouse session.
        spec: The table.
        to: An ISO instant with its zone; the id of a run that loaded the table, to read again all that it and later
            runs read; or `beginning`, which also fits a table that was created anew.

    Raises:
        ConfigError: there is nothing to rewind, or `to` is none of these or not below the watermark.
    """
    if spec.mode == "full":
        raise ConfigError(f"{spec.name}: `mode: full` reads everything in every run; there is nothing to rewind")
    last = ledger.standing_mark(warehouse, spec)
    if last is None:
        raise ConfigError(f"{spec.name}: it was not loaded yet; the next run reads everything")
    values = {"source": spec.source, "table": spec.table, "run_id": to.strip()}
    run = warehouse.execute(statement("window_of_run"), values).fetchone()
    if to.strip() == "beginning":
        mark = BEGINNING
    elif run:
        mark = run[0] or BEGINNING
    else:
        try:
            mark = read_instant(to)
        except ValueError as error:
            raise ConfigError(
                f"{spec.name}: {to!r} is no run that loaded it, not `beginning`, and as an instant it is {error}"
            ) from None
    if mark >= last.mark:
        raise ConfigError(
            f"{spec.name}: {to} is not below the watermark {to_text(last.mark)}: the next run reads from there anyway"
        )
    return mark
