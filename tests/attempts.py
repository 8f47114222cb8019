"""Attempts at every object of a database, made from its catalog: what a role can do there, found by trying.

`tests/include/test_matrix.py` tries them on the local servers, `tests/containers/test_roles.py` on Compose's, against
the table in `.github/SECURITY.md`. An attempt counts where a superuser succeeds: a refusal then speaks of rights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from include.local.environment import ROOT

CATALOG = """
    with schemas as (
        select oid, nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'
    )
    select coalesce(json_agg(found), '[]') from (
        select 'schema' as kind, oid::int8, nspname as schema, '' as name, '' as relkind, null::text[] as columns,
            array(
                select rolname::text from pg_roles where has_schema_privilege(pg_roles.oid, schemas.oid, 'create')
            ) as makers
        from schemas
        union all
        select case relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end, pg_class.oid::int8, nspname,
            relname, relkind::text,
            array(
                select quote_ident(attname) from pg_attribute
                where attrelid = pg_class.oid and attnum > 0 and not attisdropped order by attnum
            ), null
        from pg_class join schemas on relnamespace = schemas.oid where relkind in ('r', 'p', 'v', 'm', 'S')
        union all
        select 'function', pg_proc.oid::int8, nspname, proname, pg_get_function_identity_arguments(pg_proc.oid),
            null, null
        from pg_proc join schemas on pronamespace = schemas.oid
        union all
        select 'type', pg_type.oid::int8, nspname, typname, typtype::text, null, null
        from pg_type join schemas on typnamespace = schemas.oid where typtype in ('e', 'd')
        order by 1, 3, 4
    ) as found
"""

REFUSED = {"42501", "22012"}
"""Insufficient privilege; a division by zero, by which a query says that it saw nothing."""


@dataclass(frozen=True)
class Attempt:
    """One thing to try, in a transaction that is rolled back.

    Attributes:
        what: The object, such as `table marts.fct_sales`.
        verb: What is wanted of it, as the table in SECURITY.md calls it.
        statements: How; `{own}` is a schema of the role's own, or its temporary one.
    """

    what: str
    verb: str
    statements: tuple[str, ...]

    def sql(self, own: str, end: str = "; ") -> str:
        return end.join(self.statements).replace("{own}", own)


def attempts(catalog: Sequence[dict[str, Any]], database: str, roles: Sequence[str]) -> Iterator[Attempt]:
    """Everything to try in a database.

    Args:
        catalog: The answer to `CATALOG`.
        database: Its name.
        roles: Of its server.
    """
    makers = {"schema": _of_schema, "sequence": _of_sequence, "function": _of_function, "type": _of_type}
    for entry in catalog:
        name = _quoted(entry["schema"]) + ("." + _quoted(entry["name"]) if entry["name"] else "")
        label = f"{entry['kind']} {entry['schema']}" + (f".{entry['name']}" if entry["name"] else "")
        for verb, *statements in makers.get(entry["kind"], _of_relation)(name, entry):
            yield Attempt(label, verb, tuple(statements))
    for verb, *statements in _of_database(_quoted(database)):
        yield Attempt(f"database {database}", verb, tuple(statements))
    for verb, *statements in _of_server(roles):
        yield Attempt("server", verb, tuple(statements))


Tries = Iterator[tuple[str, ...]]


def _of_relation(name: str, entry: dict[str, Any]) -> Tries:
    kind = "view" if entry["relkind"] == "v" else "table"
    first = entry["columns"][0]
    yield "select", f"select * from {name} limit 0"
    yield "select", f"select count(t) from {name} as t"
    yield "select", f"create view {{own}}.attempt as select * from {name}", "select * from {own}.attempt"
    yield "select", f"create table {{own}}.attempt as select * from {name}"
    yield "select", f"create table {{own}}.attempt (like {name} including all)", f"table {name}"
    yield "select", (
        f"create function {{own}}.attempt() returns bigint language sql as 'select count(t) from {name} t'"
    ), "select {own}.attempt()"
    yield "select", f"select query_to_xml('select * from {name}', true, false, '')"
    yield "select", f"select * from {name} for share"
    yield "select", (
        "select 1 / least(count(*), 1)::int from pg_stats "
        f"where schemaname = {_text(entry['schema'])} and tablename = {_text(entry['name'])}"
    )
    for column in entry["columns"]:
        yield f"select ({column})", f"select {column} from {name} limit 0"
    yield "insert", f"insert into {name} ({first}) overriding system value select null where false"
    yield "update", f"update {name} set {first} = default where false"
    yield "delete", f"delete from {name} where false"
    yield "insert", (
        f"merge into {name} using (select 1 where false) as n on false when not matched then insert default values"
    )
    yield "truncate", f"truncate {name} cascade"
    yield "alter", f"lock table {name} in access exclusive mode"
    yield "alter", f"alter {kind} {name} rename to attempt"
    yield "alter", f"alter {kind} {name} owner to current_user", f"drop {kind} {name} cascade"
    yield "alter", f"drop {kind} {name} cascade"
    yield "alter", f"comment on {kind} {name} is 'attempt'"
    yield "alter", f"create rule attempt as on insert to {name} do also select 1"
    yield "alter", f"alter {kind} {name} alter {first} set default null"
    yield "alter", f"grant select on {name} to pg_monitor", _is_granted("pg_class", "relacl", entry["oid"])
    if kind == "table":
        yield "alter", f"alter table {name} add attempt int"
        yield "alter", f"alter table {name} add check (random() > 2) not valid"
        yield "alter", f"alter table {name} add attempt float generated always as (1.0) stored"
        yield "alter", f"create index on {name} ((1))"
        yield "alter", f"alter table {name} enable row level security", f"create policy attempt on {name}"
        yield "alter", f"create table {{own}}.attempt () inherits ({name})"
        yield "alter", (
            f"create trigger attempt before insert on {name} for each row "
            "execute function suppress_redundant_updates_trigger()"
        )
    else:
        yield "alter", f"create or replace view {name} as select * from {name} where false"


def _of_schema(name: str, entry: dict[str, Any]) -> Tries:
    yield "create", f"create table {name}.attempt ()"
    yield "create", f"create view {name}.attempt as select 1 as n"
    yield "create", f"create sequence {name}.attempt"
    yield "create", f"create type {name}.attempt as enum ('attempt')"
    yield "create", f"create domain {name}.attempt as int check (value > 0)"
    yield "create", f"create function {name}.attempt() returns int language sql as 'select 1'"
    yield "create", f"create operator {name}.=== (leftarg = int, rightarg = int, function = int4eq)"
    yield "create", f"create aggregate {name}.attempt (int) (sfunc = int4pl, stype = int)"
    yield "create", f"create text search configuration {name}.attempt (copy = simple)"
    yield "alter", f"alter schema {name} rename to attempt"
    yield "alter", f"drop schema {name} cascade"
    yield "alter", f"comment on schema {name} is 'attempt'"
    yield "alter", f"grant create on schema {name} to pg_monitor", _is_granted("pg_namespace", "nspacl", entry["oid"])


def _of_sequence(name: str, entry: dict[str, Any]) -> Tries:
    yield "select", f"select last_value from {name}"
    # To where it is: no rollback takes a sequence back.
    yield "update", f"select setval('{name}', coalesce(pg_sequence_last_value('{name}'), 1))"
    yield "update", f"select nextval('{name}')"
    yield "alter", f"alter sequence {name} rename to attempt"
    yield "alter", f"drop sequence {name} cascade"


def _of_function(name: str, entry: dict[str, Any]) -> Tries:
    rights = (
        f"has_function_privilege({entry['oid']}, 'execute') and has_schema_privilege({_text(entry['schema'])}, 'usage')"
    )
    yield "execute", f"select 1 / ({rights})::int"
    signature = f"{name}({entry['relkind']})"
    yield "alter", f"alter function {signature} rename to attempt"
    yield "alter", f"alter function {signature} security invoker"
    yield "drop", f"drop function {signature} cascade"
    yield "alter", f"grant execute on function {signature} to pg_monitor", _is_granted(
        "pg_proc", "proacl", entry["oid"]
    )


def _of_type(name: str, entry: dict[str, Any]) -> Tries:
    yield "alter", f"alter type {name} rename to attempt"
    yield "alter", f"drop type {name} cascade"
    if entry["relkind"] == "e":
        yield "alter", f"alter type {name} add value 'attempt'"


def _of_database(name: str) -> Tries:
    yield "create", "create schema attempt"
    yield "create", "create publication attempt"
    yield "temporary", "create temporary table attempt (n int)"
    yield "temporary", "create temporary view attempt as select 1 as n"
    yield "alter", f"alter database {name} set search_path = public"
    yield "alter", f"comment on database {name} is 'attempt'"
    yield "alter", f"revoke connect on database {name} from public", f"alter database {name} connection limit 1"
    for function in ("lo_create(0)", "lo_creat(0)", "lo_from_bytea(0, 'attempt')"):
        yield "large object", f"select {function}"
    yield "code", "create publication attempt for all tables"
    yield "code", "create foreign data wrapper attempt"
    yield "code", "create access method attempt type index handler bthandler"
    yield "code", "create cast (int as xml) with inout"
    yield "code", "create trusted language attempt handler plpgsql_call_handler"
    yield "code", (
        "create function {own}.attempt() returns event_trigger language plpgsql as 'begin end'"
    ), "create event trigger attempt on ddl_command_end execute function {own}.attempt()"


def _of_server(roles: Sequence[str]) -> Tries:
    for role in roles:
        yield f"act as {role}", f"set role {role}"
        yield "roles", f"set session authorization {role}", "create role attempt"
        yield "roles", f"alter role {role} superuser"
        yield "roles", f"create role attempt in role {role}"
    yield "roles", "create role attempt"
    yield "statements of others", (
        "select 1 / count(*) from pg_stat_activity where pid <> pg_backend_pid() "
        "and usename = 'postgres' and query is distinct from '<insufficient privilege>'"
    )
    for view in ("pg_authid", "pg_statistic", "pg_largeobject", "pg_hba_file_rules", "pg_subscription"):
        yield "secrets", f"select count(*) from {view}" if view != "pg_subscription" else "table pg_subscription"
    yield "files", "select pg_read_file('PG_VERSION')"
    yield "files", "select pg_ls_dir('.')"
    yield "files", "select lo_import('/etc/hostname')"
    yield "files", "copy (select 1) to program 'true'"
    yield "files", "create table {own}.attempt (t text)", "copy {own}.attempt from '/etc/hostname'"
    for setting in ("session_replication_role = replica", "log_statement = none", "zero_damaged_pages = on"):
        yield "settings", f"set {setting}"


def _is_granted(catalog: str, acl: str, oid: int) -> str:
    """A grant without the right to it is a warning: whether it had an effect."""
    return (
        f"select 1 / count(*) from {catalog}, aclexplode({acl}) where oid = {oid} and grantee = 'pg_monitor'::regrole"
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def granted() -> list[tuple[str, str, str]]:
    """Role, object pattern and verb of every right that the table in SECURITY.md grants."""
    text = (ROOT / ".github" / "SECURITY.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|", text, re.MULTILINE)
    return [
        (role, what, verb)
        for role, objects, verbs in rows
        for what in re.findall("`([^`]+)`", objects)
        for verb in re.findall("`([^`]+)`", verbs)
    ]


def own_schema(catalog: Sequence[dict[str, Any]], role: str) -> str:
    """A schema that the role may make things in; where there is none, its temporary one."""
    names = [entry["schema"] for entry in catalog if entry["kind"] == "schema" and role in entry["makers"]]
    return _quoted(names[0]) if names else "pg_temp"


def disagreement(done: Sequence[tuple[str, Attempt]], tried: Sequence[Attempt], roles: Sequence[str]) -> list[str]:
    """How what was done, by (role, attempt), differs from what SECURITY.md grants those roles on what was tried."""
    grants = [grant for grant in granted() if grant[0] in roles]

    def allows(grant: tuple[str, str, str], role: str, attempt: Attempt) -> bool:
        return grant[0] == role and fnmatchcase(attempt.what, grant[1]) and fnmatchcase(attempt.verb, grant[2])

    # Who reads all of a table reads its columns.
    whole = {(role, attempt.what) for role, attempt in done if attempt.verb == "select"}
    counted = [
        (role, attempt)
        for role, attempt in done
        if not (attempt.verb.startswith("select (") and (role, attempt.what) in whole)
        and attempt.verb != f"act as {role}"
    ]
    problems = [
        f"{role} could {attempt.verb} {attempt.what}: {attempt.sql('own')}"
        for role, attempt in counted
        if not any(allows(grant, role, attempt) for grant in grants)
    ]
    for grant in grants:
        meant = [attempt for attempt in tried if allows(grant, grant[0], attempt)]
        could = {attempt for role, attempt in counted if allows(grant, role, attempt)}
        if meant and not could:
            problems.append(f"{grant[0]} could not {grant[2]} {grant[1]}, which SECURITY.md grants")
    return problems
