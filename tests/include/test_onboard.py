"""`make onboard`: what it writes is accepted by the extractor and by dbt; what does not fit stops it before that."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import yaml

from include.dbt_project import profile_environment
from include.errors import ConfigError
from include.extract.horizon import read_horizon
from include.local.environment import ROOT
from include.onboard.shape import Table, read_table, slug
from include.onboard.write import files_for, write
from include.sessions import pin
from tests.conftest import Postgres
from tests.entries import specs_below
from tests.include.conftest import Pipeline

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
    """A checkout with this project's dbt folder."""
    shutil.copytree(ROOT / "dbt", tmp_path / "dbt", ignore=shutil.ignore_patterns("target", "logs"))
    return tmp_path


def tables(pipeline: Pipeline, *names: str, source: str = "crm") -> list[Table]:
    return [read_table(pipeline.source, source, "billing", name) for name in names or NAMES]


def onboard(pipeline: Pipeline, root: Path, *names: str, source: str = "crm") -> None:
    specs = specs_below(root / "dbt" / "models")
    write(files_for(tables(pipeline, *names, source=source), specs, pipeline.source, root))


def specs_of(root: Path, source: str = "crm") -> dict[str, dict[str, object]]:
    specs = [spec for spec in specs_below(root / "dbt" / "models") if spec.source == source]
    return {spec.table: spec.model_dump() for spec in specs}


def test_key_cursor_and_mode_follow_from_the_catalog(billing: Pipeline, root: Path) -> None:
    onboard(billing, root)
    specs = specs_of(root)
    found = {name: (spec["key"], spec["cursor"], spec["mode"], spec["deletes"]) for name, spec in specs.items()}
    assert found == {
        "accounts": (("id",), "updated_at", "incremental", "ignore"),
        "invoices": (("id",), "updated_at", "incremental", "ignore"),
        "entries": (("invoice_id", "line"), None, "full", "soft"),
        "audit_log": ((), None, "full", "ignore"),
    }
    assert specs["audit_log"]["identifier"] == "Audit Log"


def test_what_it_writes_loads_and_builds_and_passes_its_tests(billing: Pipeline, root: Path) -> None:
    onboard(billing, root)
    for spec in specs_below(root / "dbt" / "models"):
        if spec.source == "crm":
            billing.run(spec)
    environment = {**os.environ, **profile_environment(billing.warehouse_dsn), "DBT_TARGET_PATH": str(root / "target")}
    command = [sys.executable, "-m", "dbt.cli.main", "build", "--select", "source:crm+", "--no-use-colors"]
    folders = [
        "--project-dir",
        str(root / "dbt"),
        "--profiles-dir",
        str(root / "dbt"),
        "--log-path",
        str(root / "logs"),
    ]
    done = subprocess.run([*command, *folders], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    query = 'select account_id, total, paid, mood, "order", is_deleted from staging.stg_crm__invoices order by 1'
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
    entries = yaml.safe_load((root / "dbt/models/staging/crm/_sources.yml").read_text())["sources"][0]["tables"]
    assert entries[0]["description"] == "Who pays. One row per account."
    assert entries[0]["columns"][1]["description"] == 'Name: as on the "contract"'
    assert entries[2]["description"].endswith("One row per invoice_id and line.")


def test_tables_are_added_to_a_source_that_exists_and_the_rest_stays(billing: Pipeline, root: Path) -> None:
    path = root / "dbt/models/staging/shop/_sources.yml"
    before = path.read_text()
    onboard(billing, root, "accounts", source="shop")
    onboard(billing, root, "entries", source="shop")
    assert path.read_text().startswith(before)
    assert list(specs_of(root, "shop"))[-2:] == ["accounts", "entries"]


def test_the_grants_are_what_the_role_needs(billing: Pipeline, root: Path, postgres: Postgres) -> None:
    """The role of the connection may do nothing before they are run, and what the pipeline does after it."""
    name = f"reader_{billing.app.info.dbname}"
    billing.app.execute(f"create role {name} login password 'x'")
    dsn = f"postgresql://{name}:x@127.0.0.1:{postgres.server.port}/{billing.app.info.dbname}"
    with psycopg.connect(dsn) as connection:
        specs = specs_below(root / "dbt" / "models")
        write(files_for(tables(billing), specs, pin(connection, read_only=True), root))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute('select * from billing."Audit Log"')
    text = (root / "deploy/grants/crm.sql").read_text()
    billing.app.execute(text.split("-- 2. In the warehouse")[0])
    with psycopg.connect(dsn) as connection:
        for table in tables(billing):
            connection.execute(f'select * from billing."{table.identifier}"')
        read_horizon(connection, "crm")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("delete from billing.accounts")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("nothing",), 'billing"."nothing" does not exist in database'),
        (("accounts", "accounts"), "two of the tables would be called 'accounts'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(billing: Pipeline, root: Path, names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        onboard(billing, root, *names)
    assert not (root / "dbt/models/staging/crm").exists()


def test_a_table_that_is_listed_is_refused(billing: Pipeline, root: Path) -> None:
    onboard(billing, root, "accounts")
    with pytest.raises(ConfigError, match="crm.accounts is in the project already; leave it out of TABLES="):
        onboard(billing, root, "accounts", "invoices")
    assert list(specs_of(root)) == ["accounts"]


def test_a_file_that_cannot_be_added_to_is_left_alone(billing: Pipeline, root: Path) -> None:
    path = root / "dbt/models/staging/shop/_models.yml"
    path.write_text(path.read_text() + "exposures: []\n")
    with pytest.raises(ConfigError, match="move that list to the end of the file"):
        onboard(billing, root, "accounts", source="shop")
    assert "accounts" not in specs_of(root, "shop")


def test_a_column_that_loading_adds_is_refused(billing: Pipeline) -> None:
    billing.app.execute("create table billing.t (id int, _run_id text)")
    with pytest.raises(ConfigError, match="column '_run_id' is a name that loading adds"):
        tables(billing, "t")


def test_a_person_is_told_what_to_look_at(billing: Pipeline) -> None:
    remarks = {table.name: " ".join(table.remarks) for table in tables(billing)}
    assert remarks["accounts"] == ""
    assert "updated_at has no index" in remarks["invoices"] and "mood is billing.mood" in remarks["invoices"]
    assert "modified is timestamp without time zone, nullable" in remarks["entries"]
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
    [("OrderItems", "order_items"), ("Audit Log", "audit_log"), ("1st", "t_1st"), ("ünï", "n"), ("%", "t")],
)
def test_names_for_dbt(name: str, expected: str) -> None:
    assert slug(name) == expected


@pytest.mark.parametrize(
    ("plural", "one"), [("categories", "category"), ("boxes", "box"), ("orders", "order"), ("status", "status")]
)
def test_one_row_of_it(billing: Pipeline, plural: str, one: str) -> None:
    billing.app.execute(f"create table billing.{plural} (id int)")
    assert tables(billing, plural)[0].entity == one
