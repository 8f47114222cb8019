"""Plan: what the next run would do with a table, and what would stop it. Reads only."""

from __future__ import annotations

from dataclasses import dataclass, field

import psycopg
from psycopg import sql
from psycopg.rows import namedtuple_row

from include.errors import PipelineError
from include.extract.ranges import count_for
from include.postgres.catalog import columns_of, estimated_rows
from include.postgres.server import expect, server_of
from include.postgres.sessions import Connection, relation_text
from include.schema.drift import Examined, examine
from include.schema.rows import in_window, rows_of
from include.sources import TableSpec
from include.sql import statement
from include.state import ledger
from include.state.lineage import find_loss
from include.state.messages import Horizon, Window, to_text
from include.state.watermark import next_window


@dataclass
class Plan:
    """What a run would do with one table.

    Attributes:
        table: `source.table`.
        steps: Lines for a person, as (what, text).
        problems: Why the run would stop, each with its remedy.
    """

    table: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [*self.steps, *(("STOPS", problem) for problem in self.problems)]
        return "\n".join([self.table, *(f"  {what:<8}{text}" for what, text in lines)])


def plan_table(
    source: Connection, warehouse: Connection, spec: TableSpec, horizon: Horizon, variable: str | None
) -> Plan:
    """Look at a table as the next run would, without a change and without counting its rows.

    Args:
        source: A pinned session; read-only.
        warehouse: A pinned session of the loader role; read-only.
        spec: The table.
        horizon: Of its source.
        variable: The watermark's Airflow Variable.
    """
    plan = Plan(spec.name, problems=_missing_privileges(warehouse, spec))
    try:
        window = next_window(spec, variable, ledger.standing_mark(warehouse, spec), horizon)
        server = expect(server_of(source), horizon.server, spec.source)
        loss = find_loss(warehouse, spec, server) if columns_of(warehouse, spec.raw_schema, spec.table) else None
        found = examine(source, warehouse, spec, window, loss)
        window = window if loss else found.drift.follow(window)
        if loss:
            plan.steps.append(("source", f"{loss.what}: every row is compared"))
        plan.steps.append(("window", describe(spec, window)))
        query = rows_of(spec, found.columns, in_window(spec, window))
        rows = estimated_rows(source, query)
        ranges = count_for(spec, rows) if window.reads_all else 1
        plan.steps.append(("rows", f"about {rows:,}" + (f", in {ranges} ranges" if ranges > 1 else "")))
        plan.steps += [("schema", change) for change in _changes(warehouse, spec, found, window.reads_all)]
    except (PipelineError, psycopg.ProgrammingError) as error:
        plan.problems.append(" ".join(str(error).split()))
        return plan
    if spec.cursor and spec.mode != "full":
        plan.steps += [("index", text) for text in _missing_index(source, spec, spec.cursor)]
    plan.steps += [("gap", text) for text in gaps(warehouse, spec)]
    return plan


def describe(spec: TableSpec, window: Window) -> str:
    """A window as a person says it."""
    read = f"rows with {spec.cursor} from {to_text(window.lower)} on" if window.lower else "every row"
    if window.mode == "incremental" and spec.deletes == "soft":
        read += "; keys compared for deletes"
    return f"{window.mode}: {read}" + (f"; then the watermark is {to_text(window.mark)}" if window.mark else "")


def gaps(warehouse: Connection, spec: TableSpec) -> list[str]:
    """What no load has read below the watermark, with the command that reads it."""
    if not ledger.standing_mark(warehouse, spec):
        return []
    return [
        f"no load in the ledger read {spec.cursor} from {gap.lower and to_text(gap.lower) or 'the beginning'} "
        f"to {to_text(gap.upper)}; read it again: "
        f"make rewind TABLE={spec.name} TO={gap.lower and to_text(gap.lower) or 'beginning'}"
        for gap in ledger.gaps(warehouse, spec)
    ]


def _changes(warehouse: Connection, spec: TableSpec, found: Examined, reads_all: bool) -> list[str]:
    if not columns_of(warehouse, spec.raw_schema, spec.table):
        return [f"create table {relation_text(spec.raw_schema, spec.table)} with {len(found.columns)} columns"]
    gone = [
        f"{name} is gone from the source: raw keeps its last values, new rows hold NULL" for name in found.drift.gone
    ]
    unseen = [f"{change}: every row is read" for change in found.drift.unseen]
    added = [f"{each.name} is new: older rows hold {found.drift.older_rows_hold(each)}" for each in found.drift.added]
    return found.drift.statements(spec) + gone + unseen + ([] if reads_all else added)


def _missing_index(source: Connection, spec: TableSpec, cursor: str) -> list[str]:
    relation = relation_text(spec.schema_name, spec.identifier)
    with source.cursor(row_factory=namedtuple_row) as result:
        row = result.execute(statement("cursor_index"), {"relation": relation, "cursor_name": cursor}).fetchone()
    if row is None or row.is_indexed:
        return []
    how = "create index" if row.is_partitioned else "create index concurrently"
    column = sql.Identifier(cursor).as_string()
    return [f"none on {column}: every run scans the table; run on the source: {how} on {relation} ({column})"]


def _missing_privileges(warehouse: Connection, spec: TableSpec) -> list[str]:
    schema = sql.Identifier(spec.raw_schema).as_string()
    with warehouse.cursor(row_factory=namedtuple_row) as cursor:
        may = cursor.execute(statement("loader_privileges"), {"schema": schema}).fetchone()
    assert may is not None
    role = sql.Identifier(warehouse.info.user).as_string()
    remedies = []
    for name, granted in ((ledger.SCHEMA, may.may_use_elt), (spec.raw_schema, may.may_use_schema)):
        if granted is None and not may.may_create_schemas:
            remedies.append(ledger.schema_creation(name, warehouse.info.user))
        elif granted is False:
            remedies.append(f"grant usage, create on schema {sql.Identifier(name).as_string()} to {role}")
    return [f"a privilege is missing; run in the warehouse: {remedy}" for remedy in remedies]
