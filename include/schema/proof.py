"""Proof that a relation can be read by a cursor: each of its rows follows from one row of one table that carries it.

Of a view the catalog keeps the parsed query. Only what is known here is trusted: a form of query that PostgreSQL gets
later, a function that is not immutable or whose body may read, are unproven. The views' text is not looked at: it
depends on the session.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import md5
from typing import NamedTuple

from psycopg.rows import class_row, namedtuple_row

from include.errors import ConfigError, TerminalError
from include.postgres.sessions import Connection, relation_text
from include.sources import TableSpec
from include.sql import statement

NODES = frozenset(
    "QUERY RTE RANGETBLENTRY RTEPERMISSIONINFO ALIAS FROMEXPR RANGETBLREF TARGETENTRY SORTGROUPCLAUSE VAR CONST "
    "FUNCEXPR NAMEDARGEXPR OPEXPR DISTINCTEXPR NULLIFEXPR SCALARARRAYOPEXPR BOOLEXPR BOOLEANTEST NULLTEST RELABELTYPE "
    "COERCEVIAIO ARRAYCOERCEEXPR CASE CASEEXPR WHEN CASEWHEN CASETESTEXPR COALESCE COALESCEEXPR MINMAX MINMAXEXPR "
    "ARRAY ARRAYEXPR SUBSCRIPTINGREF COLLATE COLLATEEXPR".split()
)
"""Nodes of a query that look at one row: names in PostgreSQL 13 and 14, and later ones. No join, subquery, aggregate,
window, lock, sample, set, value of the session or call that makes rows is among them."""

NOT_USED = (
    "hasAggs false,hasWindowFuncs false,hasTargetSRFs false,hasSubLinks false,cteList <>,groupClause <>,"
    "groupingSets <>,havingQual <>,windowClause <>,distinctClause <>,limitOffset <>,limitCount <>,rowMarks <>,"
    "setOperations <>"
).split(",")

CAST_TO = frozenset(
    map(int, "16 17 19 20 21 23 25 114 650 700 701 869 1042 1043 1186 1560 1562 1700 2950 3802".split())
)
"""Types (pg_type.oid) that the text of a value may be cast to: not to an instant, which takes `now`, nor to the number
of an object or a label, which may get another name."""

NAMES = frozenset(
    map(int, "24 2202 2203 2204 2205 2206 3734 3769 4089 4096 4191 1008 2207 2208 2209 2210 2211 3735 3770".split())
) | {4090, 4097, 4192}
"""regclass and its like, and their arrays: the text of a value is the name that an object has at the time."""

PINNED = frozenset(
    "date time timetz timestamp timestamptz date_trunc date_part extract timezone overlaps make_timestamptz date_add "
    "date_subtract timestamptz_pl_interval timestamptz_mi_interval interval_pl_timestamptz anytextcat textanycat "
    "concat concat_ws format array_to_string array_to_json to_json to_jsonb row_to_json json_build_array "
    "json_build_object jsonb_build_array jsonb_build_object quote_literal quote_nullable length numeric convert "
    "convert_from convert_to to_char to_date to_timestamp to_number".split()
) | frozenset(
    f"{one}_{how}_{other}"
    for one, other in (
        ("date", "timestamptz"),
        ("timestamptz", "date"),
        ("timestamp", "timestamptz"),
        ("timestamptz", "timestamp"),
    )
    for how in ("cmp", "eq", "ne", "lt", "le", "gt", "ge")
)
"""Functions of PostgreSQL's own that depend on the session, by nothing but settings that are pinned in ours."""

MAY_READ = re.compile(
    r"\b(from|join|table|execute)\b|\b(current|local|session|system)_?(time|date|user|role|catalog|schema)|\buser\b"
    r"|'\s*(now|today|tomorrow|yesterday)\b|\""
)
"""What the body of a function may read a table or the clock by; a quoted name hides what it is."""


FIRST_OWN = 16384
"""The first number (oid) of what does not come with PostgreSQL."""


class _Rows(NamedTuple):
    """From `rows_of_relation.sql`."""

    oid: int
    relation: str
    how: str


@dataclass(frozen=True)
class Function:
    """A function that a rule or an expression calls, or that one of these names."""

    signature: str
    name: str
    is_own: bool
    is_immutable: bool
    language: str
    definition: str

    @property
    def is_proven(self) -> bool:
        """Whether its value follows from its arguments, as far as its catalog entry and body tell."""
        if not self.is_own:
            return self.is_immutable or self.name in PINNED
        if not self.is_immutable:
            return False
        if self.language in ("sql", "plpgsql"):
            return not MAY_READ.search(self.definition.partition("\nas ")[2] or self.definition.partition("\n")[2])
        return self.language in ("internal", "c")

    @property
    def digest(self) -> str:
        """Of its definition: another body, language or setting gives another."""
        return f"{self.signature} {md5(self.definition.encode(), usedforsecurity=False).hexdigest()}"


@dataclass(frozen=True)
class Origin:
    """Where a relation's rows come from.

    Attributes:
        problem: Why they can change, or appear, without a cursor that shows it; None where the catalog excludes it.
        cursor: What the table, whose rows they are, calls the cursor.
    """

    problem: str | None
    cursor: str | None = None


def unproven(connection: Connection, schema: str, table: str, cursor: str | None) -> str | None:
    """The problem of `origin`."""
    return origin(connection, schema, table, cursor).problem


def origin(connection: Connection, schema: str, table: str, cursor: str | None) -> Origin:
    """Follow a relation through its views to the table whose rows it shows.

    Args:
        connection: A pinned session.
        schema: Of the relation.
        table: Its name.
        cursor: The column that is to show it; None where there is none yet.
    """
    relation = relation_text(schema, table)
    while True:
        with connection.cursor(row_factory=class_row(_Rows)) as found:
            rows = found.execute(statement("rows_of_relation"), {"relation": relation}).fetchone()
        if rows is None:
            return Origin(None, cursor)
        seen = connection.execute(statement("rule"), {"view": rows.oid, "column_name": cursor}).fetchone()
        if seen is None:
            return Origin(f"{rows.relation} is {rows.how}")
        rule, number = seen
        below = _below(rows.oid, rule)
        if below is None:
            return Origin(f"{rows.relation} is a view of more than the rows of one table")
        for function in functions_in(connection, rule):
            if not function.is_proven:
                called = f"{function.signature}, which may look at more than the row"
                return Origin(f"{rows.relation} is a view that calls {called}")
        number = _column_below(rule, number) if number else None
        if cursor and number is None:
            return Origin(f"{rows.relation} is a view that computes {cursor!r}")
        relation, cursor = _name(connection, below, number)


def refuse_unproven(connection: Connection, spec: TableSpec) -> None:
    """Refuse to go by the cursor of a relation of which it proves nothing, unless every run compares its rows.

    Raises:
        ConfigError: names what is not proven and what to declare.
    """
    if spec.mode == "full" or spec.deletes == "soft":
        return
    found = unproven(connection, spec.schema_name, spec.identifier, spec.cursor)
    if found:
        raise ConfigError(
            f"{spec.name}: {found}: rows can change, or appear after later ones were read, where the cursor does not "
            "show it; add `deletes: soft` to `mode: incremental`, which compares whole rows in every run, or set "
            "`mode: full`"
        )


def refuse_borrowed_names(connection: Connection, spec: TableSpec, functions: Iterable[str]) -> None:
    """Refuse a view with a function whose names mean something else, or nothing, in the search path of our sessions.

    Args:
        connection: A pinned session.
        spec: A view.
        functions: Signatures of the source's own functions that it calls.

    Raises:
        TerminalError: names the function and carries the statement to run.
    """
    values = {"signatures": list(functions)}
    row = connection.execute(statement("borrowed_names"), values).fetchone() if values["signatures"] else None
    if row:
        function, name, path = row
        raise TerminalError(
            f"{spec.name}: function {function}, which the view calls, says {name} without its schema: here, where "
            "pg_catalog alone is searched, it would fail or give other values than in an ordinary session; "
            f"run on the source: alter function {function} set search_path = {path}"
        )


def functions_in(connection: Connection, tree: str, least: int = 0) -> list[Function]:
    """What a parsed query or expression calls, with the source's own functions that those name in their bodies.

    Args:
        connection: A pinned session.
        tree: As the catalog keeps it.
        least: The smallest number of a function or operator that is asked for.
    """
    functions = re.findall(r":(?:funcid|opfuncid|hashfuncid|negfuncid|aggfnoid|winfnoid|tsmhandler) (\d+)", tree)
    operators = re.findall(r":opno (\d+)", tree)
    given = {"functions": set(map(int, functions)), "operators": set(map(int, operators))}
    values = {name: [number for number in numbers if number >= least] for name, numbers in given.items()}
    if not any(values.values()):
        return []
    with connection.cursor(row_factory=class_row(Function)) as cursor:
        return cursor.execute(statement("functions"), values).fetchall()


def _below(view: int, rule: str) -> int | None:
    """The one relation whose rows a view shows, one for one; None where its query may do something else."""
    # A name's own braces, colons and spaces have a backslash before them: nothing in it looks like a node or a field.
    is_simple = (
        set(re.findall(r"(?<!\\)\{([A-Z_]+)", rule)) <= NODES
        and rule.count("{QUERY :commandType 1 ") == rule.count("{QUERY ") == 1
        and all(f" :{field}" in rule for field in NOT_USED)
        and set(re.findall(r":rtekind (\d+)", rule)) == {"0"}
        and not re.search(r":varattno (0|-\d+) ", rule)  # a whole row, or a place that a rewrite changes
        and not NAMES & set(map(int, re.findall(r":vartype (\d+) ", rule)))
        and set(map(int, re.findall(r":resulttype (\d+) :resultcollid", rule))) <= CAST_TO
    )
    # Up to PostgreSQL 15 the rule also names the view itself, as `old` and `new`.
    below = [int(oid) for oid in re.findall(r":rtekind 0 :relid (\d+)", rule) if int(oid) != view]
    return below[0] if is_simple and len(below) == 1 else None


def _column_below(rule: str, number: int) -> int | None:
    """The column of the relation below that a view's column is; None where it is computed."""
    plain = re.search(rf"\{{TARGETENTRY :expr \{{VAR [^{{}}]*?:varattno (\d+) [^{{}}]*\}} :resno {number} ", rule)
    return int(plain[1]) if plain else None


def _name(connection: Connection, relation: int, number: int | None) -> tuple[str, str | None]:
    query = """
        select oid::regclass::text as relation,
            (select attname::text from pg_attribute where attrelid = oid and attnum = %s) as column_name
        from pg_class where oid = %s"""
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        row = cursor.execute(query, (number, relation)).fetchone()
    assert row is not None
    return row.relation, row.column_name
