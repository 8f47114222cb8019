"""`make onboard`: what it writes is accepted by the extractor and by dbt; what does not fit stops it before that."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import psycopg
import pytest
import yaml
from dbt.adapters.factory import reset_adapters
from dbt.cli.main import dbtRunner
from psycopg import sql

from include.connecting import profile_variables, written_parameters
from include.errors import ConfigError, TerminalError
from include.extract.horizon import read_horizon
from include.local.environment import ROOT
from include.onboard import Found, look, report, shape
from include.onboard.choose import Asked
from include.onboard.names import slug
from include.onboard.shape import Table
from include.onboard.staging import columns_of_model
from include.onboard.trial import Trial, in_a_copy, refused_by
from include.onboard.write import write
from include.postgres.catalog import columns_of
from include.postgres.sessions import pin
from include.sources import Problem, Tables, TableSpec
from tests.conftest import Postgres
from tests.include.conftest import Pipeline, between
from tests.include.databases import Database
from tests.include.shapes import SHAPES
from tests.projects import write as write_project

SHAPE = """
create schema billing;
create type billing.mood as enum ('calm', 'cross');
create table billing.accounts (id bigint primary key, name text not null, updated_at timestamptz not null);
create index on billing.accounts (updated_at);
comment on table billing.accounts is 'Who pays.';
comment on column billing.accounts.name is 'Name: as on the "contract"';
create table billing.invoices (
    id uuid primary key, "Account ID" bigint not null references billing.accounts, "Total" numeric(12, 2), paid boolean,
    mood billing.mood, "order" text, updated_at timestamptz not null default now()
);
create table billing.entries (
    invoice_id uuid references billing.invoices, line int, category_id int, amount float8, modified timestamp,
    primary key (invoice_id, line)
);
create table billing."Audit Log" (at timestamptz, what jsonb);
insert into billing.accounts values (1, 'Anna', now()), (2, 'Bert', now());
insert into billing.invoices values (gen_random_uuid(), 1, 12.50, true, 'calm', 'first'),
    (gen_random_uuid(), 2, null, null, null, null);
insert into billing.entries select id, 1, 7, 0.1, now() from billing.invoices;
insert into billing."Audit Log" values (now(), '{"a": 1}'), (null, null);
"""
NAMES = ("accounts", "invoices", "entries", "Audit Log")


@pytest.fixture
def billing(pipeline: Pipeline) -> Pipeline:
    pipeline.app.execute(SHAPE)
    return pipeline


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout whose dbt project has nothing of its own yet."""
    project = {"name": "elt", "profile": "elt", "models": {"elt": {"staging": {"+schema": "staging"}}}}
    schema = "{% macro generate_schema_name(name, node) %}{{ name or target.schema }}{% endmacro %}"
    (tmp_path / "dbt").mkdir()
    write_project(tmp_path / "dbt", {"dbt_project.yml": json.dumps(project), "macros/schema.sql": schema})
    return tmp_path


def specs_in(root: Path) -> list[TableSpec]:
    """The tables that the source entries of a checkout list, rendered as dbt renders them."""
    specs = []
    for path in sorted((root / "dbt/models").rglob("_sources.yml")):
        for source in yaml.safe_load(path.read_text())["sources"]:
            for table in source["tables"]:
                extract = rendered(table["config"]["meta"]["extract"])
                names = {"source": source["name"], "table": table["name"]}
                specs.append(TableSpec.model_validate({"identifier": table["name"], **extract, **names}))
    return specs


def rendered(value: Any) -> Any:
    if isinstance(value, str):
        return jinja2.Template(value).render()
    if isinstance(value, dict):
        return {rendered(key): rendered(each) for key, each in value.items()}
    return [rendered(each) for each in value] if isinstance(value, list) else value


def found(
    pipeline: Pipeline,
    root: Path,
    *names: str,
    source: str = "crm",
    trial: Trial = lambda _: None,
    broken: Sequence[Problem] = (),
    **asked: Any,
) -> Found:
    """What onboarding finds; not tried in a copy, which takes ten seconds, unless a test says so."""
    given = {"tables": names or NAMES, "schema": "billing"} | asked
    problems = {problem.name: problem for problem in broken}
    listed = Tables({spec.name: spec for spec in specs_in(root) if spec.name not in problems}, problems)
    return look(pipeline.source, pipeline.warehouse, Asked(source, **given), listed, root, trial)


def tables(pipeline: Pipeline, *names: str, **asked: Any) -> list[Table]:
    return found(pipeline, ROOT, *names, **asked).choice.tables


def onboard(pipeline: Pipeline, root: Path, *names: str, source: str = "crm", **asked: Any) -> Found:
    made = found(pipeline, root, *names, source=source, **asked)
    write(made.made.files)
    return made


def everything(pipeline: Pipeline, root: Path, **asked: Any) -> Found:
    return onboard(pipeline, root, tables=(), **asked)


def build(pipeline: Pipeline, root: Path, command: str = "build") -> None:
    """Load every table of crm, and build and test what dbt makes of it."""
    for spec in specs_in(root):
        if spec.source == "crm":
            pipeline.run(spec)
    environment = profile_variables(written_parameters(pipeline.warehouse_dsn)) | {
        "DBT_TARGET_PATH": str(root / "target")
    }
    folders = [
        "--project-dir",
        str(root / "dbt"),
        "--profiles-dir",
        str(root / "dbt"),
        "--log-path",
        str(root / "logs"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        done = dbtRunner().invoke([command, "--select", "source:crm+", "--threads", "2", *folders])
        reset_adapters()
    assert done.success, done.exception or [
        each.message for each in done.result if str(each.status) in ("error", "fail")
    ]


def specs_of(root: Path, source: str = "crm") -> dict[str, dict[str, object]]:
    return {spec.table: spec.model_dump() for spec in specs_in(root) if spec.source == source}


def entries_of(root: Path) -> dict[str, Any]:
    text = (root / "dbt/models/staging/crm/_sources.yml").read_text()
    return {entry["name"]: entry for entry in yaml.safe_load(text)["sources"][0]["tables"]}


def assert_staged(pipeline: Pipeline, root: Path) -> None:
    """Every staging model of crm has raw's values, byte for byte."""
    models = sorted((root / "dbt/models/staging/crm").glob("*.sql"))
    assert models
    for path in models:
        [table] = re.findall(r'source\("crm", "(.+)"\)', path.read_text())
        columns = columns_of_model(path.read_text(), "crm", table)
        assert columns is not None, path
        raw = ", ".join(jinja2.Template(each.expression).render() for each in columns)
        relation = sql.Identifier("raw_crm", table).as_string()
        expected = pipeline.dump(pipeline.warehouse, f"(select {raw} from {relation})", "*")
        names = ", ".join(each.name for each in columns)
        assert pipeline.dump(pipeline.warehouse, f"(select {names} from staging.{path.stem})", "*") == expected, path


def test_key_cursor_and_mode_follow_from_the_catalog(billing: Pipeline, root: Path) -> None:
    onboard(billing, root)
    specs = specs_of(root)
    found = {name: (spec["key"], spec["cursor"], spec["mode"], spec["deletes"]) for name, spec in specs.items()}
    assert found == {
        "accounts": (("id",), "updated_at", "incremental", "soft"),
        "invoices": (("id",), "updated_at", "incremental", "soft"),
        "entries": (("invoice_id", "line"), None, "full", "soft"),
        "audit_log": ((), None, "full", "ignore"),
    }
    assert specs["audit_log"]["identifier"] == "Audit Log"


def test_what_it_writes_loads_and_builds_and_passes_its_tests(billing: Pipeline, root: Path) -> None:
    onboard(billing, root)
    build(billing, root)
    query = "select account_id, total, paid, mood, invoice_order, is_deleted from staging.stg_crm__invoices order by 1"
    assert [(row[0], str(row[1]), *row[2:]) for row in billing.raw(query)] == [
        (1, "12.50", True, "calm", "first", False),
        (2, "None", None, None, None, False),
    ]


def test_foreign_keys_become_relationships_tests(billing: Pipeline, root: Path) -> None:
    onboard(billing, root)
    text = (root / "dbt/models/staging/crm/_sources.yml").read_text()
    assert "name: crm_invoices_account_id_exists" in text and "to: source('crm', 'accounts')" in text
    assert "name: crm_entries_invoice_id_exists" in text


def test_comments_become_descriptions_that_end_with_the_grain(billing: Pipeline, root: Path) -> None:
    onboard(billing, root)
    entries = entries_of(root)
    assert entries["accounts"]["description"] == "Who pays. One row per account."
    assert entries["accounts"]["columns"][1]["description"] == 'Name: as on the "contract"'
    assert entries["entries"]["description"].endswith("One row per invoice_id and line.")


def test_tables_are_added_to_a_source_that_exists_and_the_rest_stays(billing: Pipeline, root: Path) -> None:
    onboard(billing, root, "accounts")
    path = root / "dbt/models/staging/crm/_sources.yml"
    path.write_text("# A person's.\n" + path.read_text().replace("key: [id]", "key: [id] # and so is this"))
    before = path.read_text().splitlines()
    onboard(billing, root, "entries")
    assert path.read_text().splitlines()[: len(before)] == before
    assert list(specs_of(root)) == ["accounts", "entries"]


def dsn_of(pipeline: Pipeline, postgres: Postgres, role: str) -> str:
    return f"postgresql://{role}:x@127.0.0.1:{postgres.server.port}/{pipeline.app.info.dbname}"


def psql(dsn: str, path: Path) -> None:
    """As a person runs a file; twice, for it is rerunnable."""
    for _ in range(2):
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(path.read_text())


def reading(pipeline: Pipeline, dsn: str) -> Pipeline:
    return replace(pipeline, source=pin(psycopg.connect(dsn), read_only=True))


def test_the_grants_are_what_the_role_needs(billing: Pipeline, root: Path, postgres: Postgres) -> None:
    """The role of the connection may do nothing before they are run, and what the pipeline does after it."""
    name = f"reader_{billing.app.info.dbname}"
    billing.app.execute(f"create role {name} login password 'x'")
    billing.warehouse.execute("drop role if exists dbt_only; create role dbt_only")
    dsn = dsn_of(billing, postgres, name)
    as_role = reading(billing, dsn)
    with pytest.raises(ConfigError, match="has no table to onboard for role"):
        everything(as_role, root)
    onboard(as_role, root, transformer="dbt_only")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_role.source.execute('select * from billing."Audit Log"')
    psql(billing.source_dsn, root / "deploy/grants/crm.source.sql")
    psql(billing.warehouse_dsn, root / "deploy/grants/crm.warehouse.sql")
    with psycopg.connect(dsn) as connection:
        for table in tables(billing):
            connection.execute(f'select * from billing."{table.identifier}"')
        read_horizon(connection, "crm")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("delete from billing.accounts")
    assert {table.name for table in everything(reading(billing, dsn), root).choice.tables} == {
        *("accounts", "invoices", "entries", "audit_log")
    }
    build(reading(billing, dsn), root)
    [defaults] = billing.raw(
        "select has_schema_privilege('dbt_only', 'raw_crm', 'usage'), array_agg(defaclacl::text) from pg_default_acl "
        "where defaclnamespace = 'raw_crm'::regnamespace"
    )
    assert defaults[0] and "dbt_only=r/" in defaults[1][0]
    billing.warehouse.execute("drop owned by dbt_only; drop role dbt_only")


def test_the_largest_tables_are_named_with_what_would_spare_reading_them(
    billing: Pipeline, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = "at timestamptz, note text default repeat('x', 800)"
    for table, columns, rows in (
        ("keyed", f"id int primary key, updated_at timestamptz default now(), {wide}", 5000),
        ("whole (n", f"id int primary key, {wide}", 4000),
        ("zoneless", f"id int primary key, changed_at timestamp, {wide}", 3000),
        ("keyless", f"id int, {wide}", 2000),
    ):
        place = sql.Identifier(table).as_string()
        billing.app.execute(f"create table {place} ({columns})".encode())
        billing.app.execute(f"insert into {place} (id) select generate_series(1, {rows})".encode())
    billing.app.execute(
        "create table parted (id int primary key, n text default repeat('x', 800)) partition by hash (id)"
    )
    for number in range(2):
        of = f"for values with (modulus 2, remainder {number})"
        billing.app.execute(f"create table parted_{number} partition of parted {of}".encode())
    billing.app.execute("insert into parted (id) select generate_series(1, 1000)")
    assert "scans most" not in everything(billing, root).summary, "a person may read all of this"
    monkeypatch.setattr(report, "COSTLY_BYTES", 500_000)
    said = everything(billing, root).summary.splitlines()
    begin = said.index("every run scans most of:") + 1
    assert [re.sub(r"[\d.,]+ MB", "MB", line) for line in said[begin : begin + 5]] == [
        "  public.keyed, MB: `deletes: ignore` in its entry, if no row is ever deleted, and an index on updated_at",
        "  public.whole (n, MB: give it a column `updated_at timestamptz` that a trigger keeps, and an index on it; "
        "then onboard again",
        "  public.zoneless, MB: CURSOR_ZONE=UTC, if its stamps without time zone are that",
        "  public.keyless, MB: give it a primary key, then onboard again",
        "  public.parted, MB: give it a column `updated_at timestamptz` that a trigger keeps, and an index on it; then "
        "onboard again",
    ]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("alter table billing.accounts owner to {}", "owns what is there"),
        ("grant insert on billing.accounts to {}", "writes"),
        ("alter role {} superuser", "is a superuser"),
        (
            "create role {0}_group noinherit; alter table billing.entries owner to {0}_group; grant {0}_group to {0}",
            "owns",
        ),
    ],
)
def test_a_role_that_does_more_than_read_is_never_changed(
    billing: Pipeline, root: Path, postgres: Postgres, more: str, why: str
) -> None:
    name = f"app_{billing.app.info.dbname}"
    own = f"crm_{billing.app.info.dbname}"
    billing.app.execute(f"drop role if exists crm_reader; create role {name} login password 'x'")
    billing.app.execute(f"grant usage on schema billing to {name}; " + more.format(name))
    done = onboard(reading(billing, dsn_of(billing, postgres, name)), root)
    text = (root / "deploy/grants/crm.source.sql").read_text()
    assert name not in text and 'to "crm_reader"' in text and why in done.summary
    assert own not in text
    psql(billing.source_dsn, root / "deploy/grants/crm.source.sql")
    query = "select count(*) from pg_db_role_setting s join pg_roles r on r.oid = s.setrole where rolname = %s"
    assert billing.app.execute(query, (name,)).fetchone() == (0,)
    billing.app.execute("drop owned by crm_reader; drop role crm_reader")


def test_a_persons_lines_in_the_grants_stay(billing: Pipeline, root: Path) -> None:
    onboard(billing, root, "accounts")
    path = root / "deploy/grants/crm.source.sql"
    path.unlink()
    onboard(billing, root, "accounts", trial=lambda _: pytest.fail("tried, though dbt's files stay as they are"))
    path.write_text(path.read_text() + "-- Anna: also the auditors\ngrant select on billing.accounts to public;\n")
    before = path.read_text()
    onboard(billing, root, "invoices")
    assert path.read_text() == before + 'grant select on "billing"."invoices" to "crm_reader";\n'


def reading_accounts(billing: Pipeline, postgres: Postgres, columns: str) -> Pipeline:
    """The pipeline with a role that may read some columns of one table."""
    name = f"part_{billing.app.info.dbname}"
    billing.app.execute(
        f"create role {name} login password 'x'; grant pg_read_all_stats to {name};"
        f"grant usage on schema billing to {name}; grant select ({columns}) on billing.accounts to {name};"
    )
    return reading(billing, dsn_of(billing, postgres, name))


def test_columns_that_are_left_out_stay_closed(billing: Pipeline, root: Path, postgres: Postgres) -> None:
    """Of a table that the role may read in part, and of one whose entry says so."""
    as_role = reading_accounts(billing, postgres, "id, updated_at")
    done = everything(as_role, root)
    assert [table.extract["columns"] for table in done.choice.tables] == [{"name": "omit"}]
    assert "name may not be read: left out" in done.choice.tables[0].remarks
    text = (root / "deploy/grants/crm.source.sql").read_text()
    assert f'grant select ("id", "updated_at") on "billing"."accounts" to "{as_role.source.info.user}";' in text
    psql(billing.source_dsn, root / "deploy/grants/crm.source.sql")
    build(as_role, root)
    assert billing.raw("select count(*) from raw_crm.accounts") == [(2,)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_role.source.execute("select name from billing.accounts")
    [spec] = [spec for spec in specs_in(root) if spec.source == "crm"]
    billing.app.execute(f"revoke all on billing.accounts from {as_role.source.info.user}")
    with pytest.raises(TerminalError, match=r'grant select \("id", "updated_at"\) on "billing"."accounts" to'):
        as_role.run(spec)


def test_rows_that_row_security_hides_are_said_with_what_helps(
    billing: Pipeline, root: Path, postgres: Postgres
) -> None:
    name = f"rls_{billing.app.info.dbname}"
    billing.app.execute(
        f"create role {name} login password 'x'; grant usage on schema billing to {name};"
        f"grant select on all tables in schema billing to {name};"
        "alter table billing.accounts enable row level security"
    )
    done = everything(reading(billing, dsn_of(billing, postgres, name)), root)
    assert "bypassrls" in done.choice.left_out["billing.accounts"] and len(done.choice.tables) == 3


def test_what_does_not_pass_is_left_out_and_the_rest_is_written(billing: Pipeline, root: Path) -> None:
    """A table that breaks the project, whatever of it does: here a model of its name in a folder of a person's."""
    calls: list[int] = []

    def trial(files: Mapping[Path, str]) -> str | None:
        calls.append(len(files))
        return "two models are called so" if any(path.stem == "stg_crm__entries" for path in files) else None

    done = onboard(billing, root, trial=trial)
    assert done.choice.left_out == {"billing.entries": "two models are called so"}
    assert set(entries_of(root)) == {"accounts", "invoices", "audit_log"} and len(calls) <= 8


def test_a_model_that_the_warehouse_refuses_is_left_out(billing: Pipeline, root: Path) -> None:
    refuse = refused_by(billing.warehouse, tables(billing, "accounts"), {"accounts": "select nope from {{ source() }}"})
    assert refuse == {"accounts": 'the warehouse refuses its staging model: column "nope" does not exist'}


def test_the_copy_is_parsed_and_rendered(billing: Pipeline, root: Path) -> None:
    billing.app.execute(ODD)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    done = found(billing, root, tables=(), trial=in_a_copy(root))
    assert done.choice.left_out == {} and len(done.made.models) == 18
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    broken = {root / "dbt/models/staging/crm/stg_crm__x.sql": "select {{ nope("}
    said = in_a_copy(root)(broken)
    assert said is not None and "stg_crm__x" in said


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"tables": ("nothing",)}, '"billing"."nothing" does not exist in the database of source crm'),
        ({"tables": (), "include": ("sales.*",)}, "INCLUDE='sales.\\*' fits no table of source crm"),
        ({"tables": (), "exclude": ("*",)}, "source crm has no table to onboard for role 'postgres'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(billing: Pipeline, root: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        onboard(billing, root, **asked)
    assert not (root / "dbt/models/staging/crm").exists()


def test_a_file_that_cannot_be_added_to_is_left_alone(billing: Pipeline, root: Path) -> None:
    onboard(billing, root, "accounts")
    path = root / "dbt/models/staging/crm/_models.yml"
    path.write_text("models: []\n")
    with pytest.raises(ConfigError, match="has no list models in lines of its own; write it so, and try again"):
        onboard(billing, root, "entries")
    assert list(specs_of(root)) == ["accounts"]


def test_a_table_whose_entry_is_wrong_is_not_proposed_again(billing: Pipeline, root: Path) -> None:
    """It is there, though it cannot be read: a second entry of its name would break the project."""
    onboard(billing, root, "accounts", "entries")
    broken = Problem("crm.accounts", "models/…/_sources.yml: table crm.accounts: mode is 'sometimes'")
    again = found(billing, root, broken=[broken])
    assert again.choice.left_out["billing.accounts"] == f"mend its entry first: {broken.sentence}"
    assert "accounts" not in {table.name for table in again.choice.tables}
    assert again.made.files[root / "dbt/models/staging/crm/_sources.yml"].count("- name: accounts") == 1


def test_a_column_that_loading_adds_is_refused(billing: Pipeline) -> None:
    billing.app.execute("create table billing.t (id int, _run_id text)")
    with pytest.raises(ConfigError, match="'_run_id' is a name that loading adds; .* `columns: {_run_id: omit}`"):
        tables(billing, "t")


def test_a_person_is_told_what_to_look_at(billing: Pipeline) -> None:
    remarks = {table.name: " ".join(table.remarks) for table in tables(billing)}
    assert remarks["accounts"].startswith("no trigger keeps updated_at: an update that leaves it as it is is not read")
    assert "updated_at has no index" in remarks["invoices"] and "mood is billing.mood" in remarks["invoices"]
    assert "modified is timestamp without time zone: give its time zone with CURSOR_ZONE=" in remarks["entries"]
    assert "no primary key" in remarks["audit_log"]


def test_a_table_that_is_filled_elsewhere_gets_no_cursor(billing: Pipeline) -> None:
    """Its key would do for an upsert; what a foreign server commits late would be missed."""
    billing.app.execute(
        "create foreign data wrapper w; create server s foreign data wrapper w;"
        "create foreign table billing.far () inherits (billing.accounts) server s"
    )
    [accounts] = tables(billing, "accounts")
    assert accounts.extract == {"key": ["id"], "mode": "full", "deletes": "soft", "schema": "billing"}
    assert accounts.remarks == [
        "billing.far is a foreign table, and no cursor shows when its rows appear: every run reads all of it"
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("OrderItems", "order_items"), ("Audit Log", "audit_log"), ("1st", "t_1st"), ("ünï", "uni"), ("%", "t")],
)
def test_names_for_dbt(name: str, expected: str) -> None:
    assert slug(name) == expected


@pytest.mark.parametrize(
    ("plural", "one"), [("categories", "category"), ("boxes", "box"), ("orders", "order"), ("status", "status")]
)
def test_one_row_of_it(billing: Pipeline, plural: str, one: str) -> None:
    billing.app.execute(f"create table billing.{plural} (id int)")
    assert tables(billing, plural)[0].entity == one


def test_staging_cuts_and_rounds_nothing(billing: Pipeline, root: Path) -> None:
    """An explicit cast to what the source declared one day cuts, without an error, what it holds the next."""
    billing.app.execute(
        "create table billing.tickets (id bigint primary key, code varchar(5), price numeric(8,2), "
        "updated_at timestamptz not null default now()); insert into billing.tickets values (1, 'abcde', 1.23)"
    )
    onboard(billing, root, "tickets")
    build(billing, root, "run")
    billing.app.execute(
        "alter table billing.tickets alter code type varchar(20), alter price type numeric(12,4);"
        "insert into billing.tickets values (3, 'abcdefghijkl', 1.2345)"
    )
    build(billing, root, "run")
    assert billing.raw("select ticket_code, price::text from staging.stg_crm__tickets where ticket_id = 3") == [
        ("abcdefghijkl", "1.2345")
    ]


ODD = """
create table billing."user" (
    id int primary key, "createdAt" timestamptz not null, "user" text not null unique, "timestamp" text not null,
    position int not null, "primary" text not null, "group" text not null, "values" text not null, "order" text,
    "userId" int not null, user_id int not null, no text, "on" text, "null" text, "Ünï cødé" text, "日本" text,
    "a""b" text, "new
line" text, "{{ 7*7 }}" text, "{{ env_var('HOME') }}" text, "{% raw %}" text, "%s" text, "with:colon # hash" text,
    _private text, source text, renamed text, "aAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAaAa" text
);
create table billing.category (
    id int primary key, name text, category_name text, category_id int references billing.category,
    is_deleted bool, loaded_at text, deleted_at timestamptz
);
create table billing.no (id int primary key, "InvoiceId" int unique);
create table billing."Null" (id int primary key, "InvoiceId" int references billing.no ("InvoiceId"));
create table billing."on" (id int primary key, "group" text references billing."user" ("user"));
create table billing.a_b (id int primary key, c int references billing.category);
create table billing.a (id int primary key, b_c int references billing.category);
create table billing."Audit_Log" (id int primary key);
create table billing.quotes (id int primary key, "mo""od" billing.mood, "of""it" int references billing.category);
create table billing.abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghij (
    id int primary key, abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk int references billing.category
);
create table billing."{{ 7*7 }}" (id int primary key, t text);
create table billing."日本" (id int primary key);
create table billing."中国" (id int primary key);
comment on column billing."user"."group" is 'Rendered as {{ customer.name }} in the mail';
comment on table billing."user" is '{{ env_var("HOME") }} is evaluated {% endif %} {# "quoted" \\ #} {}}
in two lines';
insert into billing."user" values (1, now(), 'anna', 'b', 3, 'd', 'e', 'f', 'g', 7, 8, 'h', 'i', 'j', 'k', 'l', 'm',
    'n', 'o', 'p', 'q', 'r', 's', 't', 'u', 'v', 'w');
insert into billing.category values (1, 'a', 'b', 1, true, 'c', now());
insert into billing.no values (1, 5);
insert into billing."Null" values (1, 5);
insert into billing."on" values (1, 'anna');
insert into billing.quotes values (1, 'calm', 1);
"""


def test_every_name_and_comment_that_postgresql_allows(billing: Pipeline, root: Path) -> None:
    billing.app.execute(ODD)
    done = everything(billing, root)
    assert done.choice.left_out == {}
    build(billing, root)
    assert_staged(billing, root)
    select = "select {} from staging.stg_crm__user"
    names = "user_user, user_timestamp, user_position, user_primary, user_group, user_values, user_order, user_id"
    assert billing.raw(select.format(names)) == [("anna", "b", 3, "d", "e", "f", "g", 8)]
    columns = {each[0] for each in billing.raw("select column_name from information_schema.columns")}
    assert {"t_7_7", "env_var_home", "user_null", "user_on", "no", "uni_cde", "user_user_id"} <= columns
    assert billing.raw("select name, category_name, category_loaded_at from staging.stg_crm__category") == [
        ("a", "b", "c")
    ]


def test_what_it_writes_passes_lint(billing: Pipeline, root: Path) -> None:
    billing.app.execute(ODD)
    onboard(billing, root, "user", "category", "{{ 7*7 }}")
    folder = root / "dbt/models/staging/crm"
    command = [sys.executable, "-m", "sqlfluff", "lint", "--templater", "jinja", "--config", str(ROOT / ".sqlfluff")]
    done = subprocess.run([*command, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_second_onboarding_changes_nothing(billing: Pipeline, root: Path) -> None:
    billing.app.execute(ODD)
    everything(billing, root)
    again = everything(billing, root)
    assert again.made.files == {} and again.made.said == {}


def test_a_domain_is_its_base_type_and_what_the_warehouse_lacks_is_text(billing: Pipeline, root: Path) -> None:
    billing.app.execute(
        "create domain billing.flag as boolean; create domain billing.small as int check (value > 0);"
        "create domain billing.smaller as billing.small; create domain billing.price as numeric(5, 2);"
        "create table billing.t (id billing.small primary key, f billing.flag, n billing.smaller, p billing.price, "
        "d billing.small[], r regclass, x xml, m billing.mood, i int4range);"
        "insert into billing.t values (9, true, 9, 1.5, '{1,2}', 'pg_class', null, 'calm', '[1,5)'),"
        "(10, false, 10, 2, null, null, null, null, null)"
    )
    [table] = onboard(billing, root, "t").choice.tables
    assert set(table.extract["columns"]) - {"x"} == {"d", "r", "m"}
    build(billing, root)
    assert_staged(billing, root)
    assert billing.raw("select t_id, f, n, p::text, d, r, m from staging.stg_crm__t order by 1") == [
        (9, True, 9, "1.50", "{1,2}", "pg_class", "calm"),
        (10, False, 10, "2.00", None, None, None),
    ]
    assert any("d is billing.small[]: loaded as text" in each for each in table.remarks)


def test_what_the_warehouse_lacks(billing: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    billing.app.execute("create table billing.t (id int primary key, x xml, n int)")
    monkeypatch.setattr(shape, "_has_xml", lambda _: False)
    [table] = tables(billing, "t")
    assert table.extract["columns"] == {"x": "text"}


def test_foreign_keys_of_quoted_names_and_across_schemas(billing: Pipeline, root: Path) -> None:
    """As dbt runs the test: `build` above would fail if the field had no quotes."""
    billing.app.execute(
        'create schema sales; create table sales."Invoice" ("InvoiceId" int primary key);'
        'create table billing."Line" ("LineId" int primary key, "InvoiceId" int references sales."Invoice");'
        'insert into sales."Invoice" values (1); insert into billing."Line" values (1, 1)'
    )
    everything(billing, root, include=("*.Line", "*.Invoice"))
    build(billing, root)
    [test] = entries_of(root)["line"]["columns"][1]["data_tests"]
    assert test["relationships"]["arguments"] == {"to": "source('crm', 'invoice')", "field": '"InvoiceId"'}


def test_a_foreign_key_of_several_columns_is_tested_as_one(billing: Pipeline, root: Path) -> None:
    """A row that lacks part of it refers to nothing; each column by itself may be there."""
    billing.app.execute(
        'create table billing.shelf (house int, "Row" int, primary key (house, "Row"));'
        "create table billing.book (id int primary key, house int, place int,"
        ' foreign key (house, place) references billing.shelf (house, "Row"));'
        "insert into billing.shelf values (1, 1), (2, 2); insert into billing.book values (1, 1, 1), (2, 1, null)"
    )
    onboard(billing, root, "shelf", "book")
    build(billing, root)
    [test] = entries_of(root)["book"]["data_tests"]
    arguments = {"to": "source('crm', 'shelf')", "field": '(house, "Row")', "column_name": "(house, place)"}
    assert test["relationships"]["arguments"] == arguments
    billing.app.execute(
        "alter table billing.book drop constraint book_house_place_fkey; update billing.book set place = 2 where id = 1"
    )
    with pytest.raises(AssertionError, match="Got 1 result, configured to fail"):
        build(billing, root, "test")


def test_a_foreign_key_that_is_declared_more_than_once_is_tested_once(billing: Pipeline, root: Path) -> None:
    billing.app.execute("create table billing.notes (id int primary key, invoice_id uuid, line int)")
    for _ in range(3):
        billing.app.execute("alter table billing.notes add foreign key (invoice_id, line) references billing.entries")
        billing.app.execute("alter table billing.notes add foreign key (invoice_id) references billing.invoices")
    onboard(billing, root, "invoices", "entries", "notes")
    notes = entries_of(root)["notes"]
    assert [each["relationships"]["name"] for each in notes["data_tests"]] == ["crm_notes_invoice_id_line_exists"]
    assert [len(each.get("data_tests", ())) for each in notes["columns"]] == [0, 1, 0, 0, 0, 0]


def test_texts_that_are_equal_in_the_source_alone_are_not_compared(
    system_postgres: Postgres, postgres: Postgres, root: Path
) -> None:
    with between(system_postgres.database(), postgres.database()) as pipeline:
        pipeline.app.execute(
            "create schema billing;"
            "create collation billing.lax (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
            "create table billing.shop (code text collate billing.lax primary key, town text unique);"
            "create table billing.till (id int primary key, shop text collate billing.lax references billing.shop,"
            " town text references billing.shop (town));"
            "insert into billing.shop values ('A', 'B'); insert into billing.till values (1, 'a', 'B')"
        )
        everything(pipeline, root)
        assert [len(each.get("data_tests", ())) for each in entries_of(root)["till"]["columns"]] == [0, 0, 1, 0, 0, 0]
        build(pipeline, root)


def test_a_key_that_may_not_be_read_is_none(billing: Pipeline, root: Path, postgres: Postgres) -> None:
    as_role = reading_accounts(billing, postgres, "name, updated_at")
    [table] = everything(as_role, root).choice.tables
    assert table.extract == {"mode": "full", "schema": "billing", "columns": {"id": "omit"}}
    build(as_role, root)
    assert billing.raw("select name from raw_crm.accounts order by name") == [("Anna",), ("Bert",)]


def test_a_list_of_stamps_is_no_cursor(billing: Pipeline) -> None:
    billing.app.execute("create table billing.t (id int primary key, updated_at timestamptz[], modified timestamp[])")
    [table] = tables(billing, "t", zone="UTC")
    assert table.cursor is None and not table.has_zoneless_stamp


def test_a_table_of_as_many_columns_as_fit_takes_seconds(billing: Pipeline, root: Path) -> None:
    billing.app.execute(f"create table billing.wide (id int, {', '.join(f'c{n} int' for n in range(1500))})")
    begun = time.process_time()
    onboard(billing, root, "wide")
    assert time.process_time() - begun < 15


@pytest.mark.parametrize(
    ("definition", "key"),
    [
        ("id int, note text, primary key (id) include (note)", ["id"]),
        ("a int not null, b int not null, unique (a, b), c int not null unique", ["c"]),
        ("a int unique, b int", []),
        ("id int generated always as identity primary key, a int unique not null", ["id"]),
        ("a int not null, r int4range not null, exclude using gist (r with &&)", []),
        ("a int not null, unique nulls not distinct (a)", ["a"]),
        ("a int not null, unique (a) deferrable initially deferred", ["a"]),
        ("a int not null", []),
    ],
)
def test_the_key_is_what_an_index_vouches_for(billing: Pipeline, definition: str, key: list[str]) -> None:
    billing.app.execute(f"create table billing.t ({definition})")
    [table] = tables(billing, "t")
    assert list(table.key) == key


def test_a_whole_database_without_what_comes_with_something_else(billing: Pipeline, root: Path) -> None:
    billing.app.execute(
        """
        create table public.parts (id int, at date, primary key (id, at)) partition by range (at);
        create table public.parts_2026 partition of public.parts for values from ('2026-01-01') to ('2027-01-01');
        create table public.animals (id int primary key, name text);
        create table public.dogs (bark text) inherits (public.animals);
        create view public.loud as select * from public.dogs;
        create table public.nothing ();
        create table public.accounts (id int primary key);
        create table public.loaded (id int, _loaded_at text, _run_id text, _deleted_at text);
        insert into animals values (1, 'a'); insert into dogs values (1, 'b', 'c');
        """
    )
    choice = everything(billing, root).choice
    assert {table.name for table in choice.tables} == {
        *("billing_accounts", "public_accounts", "invoices", "entries", "audit_log", "orders", "parts", "animals"),
    }
    assert {name: why.split(";")[0].split(",")[0] for name, why in choice.left_out.items()} == {
        "public.parts_2026": "it is a partition",
        "public.dogs": "it inherits",
        "public.loud": "it is a view",
        "public.nothing": "it has no columns",
        "public.loaded": "this pipeline made it",
    }
    [animals] = [table for table in choice.tables if table.name == "animals"]
    assert animals.extract == {"mode": "full"} and "share keys" in animals.remarks[0]
    build(billing, root)
    assert billing.raw("select count(*) from raw_crm.animals") == [(2,)]


def test_patterns(billing: Pipeline, root: Path) -> None:
    billing.app.execute("create schema audit; create table audit.log (id int); create table billing.x_tmp (id int)")
    done = everything(billing, root, include=("billing.*", "log"), exclude=("*_tmp", "entr*"))
    assert {table.name for table in done.choice.tables} == {"accounts", "invoices", "audit_log", "log"}
    assert done.choice.left_out == {"billing.entries": "EXCLUDE= says so", "billing.x_tmp": "EXCLUDE= says so"}


@pytest.mark.parametrize(
    "typed", ["*", "actor;touch {0}", "$(touch {0})", "`touch {0}`", "$(shell touch {0})", "a'b \"c"]
)
def test_what_a_person_types_reaches_the_command_as_it_is(typed: str, tmp_path: Path) -> None:
    text = typed.replace("{0}", str(tmp_path / "ran"))
    command = ["make", "--no-print-directory", "onboard", f"TABLES={text}", "COMMAND=printenv TABLES #", "VENV=v"]
    done = subprocess.run(
        [*command, "--old-file=v/ready", "--old-file=setup"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == text + "\n" and not (tmp_path / "ran").exists()


def test_stamps_without_a_zone_become_cursors_where_a_person_says_it(billing: Pipeline, root: Path) -> None:
    [entries] = tables(billing, "entries", zone="UTC")
    assert {key: entries.extract[key] for key in ("cursor", "null_cursor", "cursor_zone", "overlap")} == {
        "cursor": "modified",
        "null_cursor": "always",
        "cursor_zone": "UTC",
        "overlap": "1 hour",
    }
    onboard(billing, root, zone="UTC")
    build(billing, root)


def test_a_trigger_that_keeps_the_cursor_is_seen(billing: Pipeline) -> None:
    billing.app.execute(
        "create function billing.touch() returns trigger language plpgsql as "
        "$$begin new.updated_at = now(); return new; end$$;"
        "create trigger touch before update on billing.accounts for each row execute function billing.touch()"
    )
    assert [table.remarks for table in tables(billing, "accounts")] == [[]]


def test_a_second_time_brings_what_is_new_and_what_a_person_wrote_stays(billing: Pipeline, root: Path) -> None:
    onboard(billing, root)
    sources = root / "dbt/models/staging/crm/_sources.yml"
    kept = root / "dbt/models/staging/crm/stg_crm__invoices.sql"
    sources.write_text(
        sources.read_text().replace("        config:\n", "        # ours: ask Anna\n        config:\n", 1)
        + "# the end\n"
    )
    kept.write_text(kept.read_text().replace("select * from renamed", "select * from renamed where not is_deleted"))
    billing.app.execute(
        "alter table billing.accounts add note text; alter table billing.invoices add note text;"
        "alter table billing.entries drop category_id; create table billing.fresh (id int primary key);"
        'drop table billing."Audit Log"'
    )
    before, model = sources.read_text(), kept.read_text()
    done = everything(billing, root)
    assert set(before.splitlines()) <= set(sources.read_text().splitlines())
    assert kept.read_text() == model and any("note," in each for each in done.made.said["invoices"])
    assert done.made.said["accounts"] == ["new columns: note"]
    assert "        note,\n" in (root / "dbt/models/staging/crm/stg_crm__accounts.sql").read_text()
    assert [column["name"] for column in entries_of(root)["accounts"]["columns"]][-4] == "note"
    assert done.gone == ["crm.audit_log"] and "fresh" in entries_of(root)
    assert "gone from the source: category_id" in done.made.said["entries"][0]
    assert everything(billing, root).made.files == {}


def test_a_second_time_brings_new_values_of_an_enum(billing: Pipeline, root: Path) -> None:
    """Without it the test fails of the first row that has one, until a person edits the file."""
    everything(billing, root)
    path = root / "dbt/models/staging/crm/_sources.yml"
    before = path.read_text()
    billing.app.execute("alter type billing.mood add value 'it''s \"odd\"' before 'cross'")
    billing.app.execute("update billing.invoices set mood = 'it''s \"odd\"', updated_at = default")
    done = everything(billing, root)
    assert done.made.said == {"invoices": ['new values of mood: it\'s "odd"']}
    columns = {each["name"]: each for each in entries_of(root)["invoices"]["columns"]}
    [test] = columns["mood"]["data_tests"]
    assert test["accepted_values"]["arguments"] == {"values": ["calm", "cross", "it''s \"odd\""]}
    changed = set(path.read_text().splitlines()) ^ set(before.splitlines())
    assert len(changed) == 2 and all(line.lstrip().startswith("values: ") for line in changed)
    build(billing, root)
    assert everything(billing, root).made.files == {}


def numbers() -> list[int]:
    """Seeds of generated databases: a few, or as many as DATABASES= says, from SEED= on."""
    first = int(os.environ.get("SEED", "1"))
    return [*range(first, first + int(os.environ.get("DATABASES", "2")))]


@pytest.mark.parametrize("seed", numbers())
def test_a_database_that_nobody_designed(pipeline: Pipeline, root: Path, seed: int) -> None:
    """No edit: onboard, run, the application's next day, run; raw is the source and staging is raw, byte for byte."""
    size = int(os.environ.get("TABLES_OF_DATABASE", "10"))
    pipeline.app.execute("drop table orders")  # a name that a made table may have
    database = Database(pipeline.app, seed, size)
    done = everything(pipeline, root, zone="UTC")
    assert set(done.choice.left_out) == {"hr.parts_1", "hr.parts_rest", "hr.dogs", "hr.seen"}
    assert len(done.choice.tables) == size + 3
    build(pipeline, root)
    assert_loaded(pipeline, root)
    again = everything(pipeline, root, zone="UTC")
    assert again.made.files == {}
    database.change()
    everything(pipeline, root, zone="UTC")
    build(pipeline, root)
    assert_loaded(pipeline, root)
    assert everything(pipeline, root, zone="UTC").made.files == {}


def assert_loaded(pipeline: Pipeline, root: Path) -> None:
    """Raw has the source's rows, in their text, and staging has raw's."""
    for spec in specs_in(root):
        if spec.source == "crm":
            names = [each.name for each in columns_of(pipeline.source, spec.schema_name, spec.identifier)]
            as_text = {name for name, how in spec.columns.items() if how == "text"}
            quoted = {name: sql.Identifier(name).as_string() for name in names}
            place = sql.Identifier(spec.schema_name, spec.identifier).as_string()
            read = ", ".join(f"{quoted[name]}{'::text' if name in as_text else ''}" for name in names)
            source = pipeline.dump(pipeline.source, f"(select {read} from {place})", "*")
            place = sql.Identifier(spec.raw_schema, spec.table).as_string()
            loaded = f"(select {', '.join(quoted.values())} from {place} where _deleted_at is null)"
            assert pipeline.dump(pipeline.warehouse, loaded, "*") == source, spec
    assert_staged(pipeline, root)


@pytest.mark.parametrize("shape", os.environ.get("SHAPES", "rental music").split())
def test_a_database_of_a_known_shape(pipeline: Pipeline, root: Path, shape: str) -> None:
    """No edit: onboard, run, change a row of each table, run. SHAPES= names others (`tests/include/shapes.py`)."""
    statements, size = SHAPES[shape]
    pipeline.app.execute("create extension if not exists plpgsql")
    pipeline.app.execute("set timezone to 'UTC'")
    pipeline.app.execute(statements)
    done = everything(pipeline, root, zone="UTC", exclude=("public.orders",))
    assert len(done.choice.tables) == size
    build(pipeline, root)
    assert_loaded(pipeline, root)
    for table in done.choice.tables:
        if table.cursor:
            place = sql.Identifier(*table.place)
            now = sql.SQL("update {} set {} = now()").format(place, sql.Identifier(table.cursor.name))
            pipeline.app.execute(now)
    build(pipeline, root)
    assert_loaded(pipeline, root)
    assert everything(pipeline, root, zone="UTC", exclude=("public.orders",)).made.files == {}
