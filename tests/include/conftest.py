"""A source and a warehouse, and the pipeline's own steps between them, without Airflow."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
import pytest

from include.extract.horizon import read_horizon
from include.extract.table import Request, begin_extraction, extract_part, extract_table
from include.load.publish import load_batch
from include.local.databases import ROLES, provision
from include.postgres.sessions import Connection, pin
from include.sources import TableSpec
from include.state import ledger, watermark
from include.state.messages import Batch, Horizon, LoadResult, Part, Window
from tests.conftest import Postgres


@dataclass
class Pipeline:
    """One source and one warehouse database; `app` writes to the source as its application would."""

    app: Connection
    source: Connection
    warehouse: Connection
    source_dsn: str
    warehouse_dsn: str
    _runs: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def spec(self, table: str = "orders", **extract: Any) -> TableSpec:
        given = {"key": ["id"], "cursor": "updated_at", "identifier": table} | extract
        return TableSpec(source="shop", table=table, **given)

    def insert(self, *ids: int, at: str = "now()") -> None:
        """Orders, one after another; `at` is their cursor, an expression."""
        for number in ids:
            self.app.execute(f"insert into orders values ({number}, {number}.50, {at})")

    def fill(self, rows: int) -> None:
        """Orders 1 to `rows`, a second apart, their cursors long past."""
        self.app.execute(
            "insert into orders select n, n, '2026-01-01'::timestamptz + n * interval '1 second' "
            f"from generate_series(1, {rows}) n"
        )
        self.app.execute("analyze orders")

    def horizon(self) -> Horizon:
        return read_horizon(self.source, "shop")

    def _request(
        self,
        spec: TableSpec,
        *,
        run_id: str | None = None,
        window: Window | None = None,
        variable: str | None = None,
        horizon: Horizon | None = None,
    ) -> Request:
        horizon = horizon or self.horizon()
        ledger.ensure(self.warehouse, spec.raw_schema)
        if window is None:
            window = watermark.next_window(spec, variable, ledger.standing_mark(self.warehouse, spec), horizon)
        return Request(spec, run_id or f"run_{next(self._runs)}", window, horizon, variable)

    def extract(self, spec: TableSpec, **asked: Any) -> Batch:
        return extract_table(self.source, self.warehouse, self._request(spec, **asked))

    def cut(self, spec: TableSpec, **asked: Any) -> list[Part]:
        """Through XCom, as the tasks get them."""
        parts = begin_extraction(self.source, self.warehouse, self._request(spec, **asked))
        return [Part.from_json(json.loads(json.dumps(part.to_json()))) for part in parts]

    def read(self, spec: TableSpec, part: Part) -> Batch:
        batch = extract_part(self.source, self.warehouse, spec, part)
        return Batch.from_json(json.loads(json.dumps(batch.to_json())))

    def load(self, spec: TableSpec, *batches: Batch) -> LoadResult:
        return load_batch(self.warehouse, spec, *batches)

    def run(self, spec: TableSpec, **extract: Any) -> LoadResult:
        return self.load(spec, self.extract(spec, **extract))

    def raw(self, query: str) -> list[tuple[Any, ...]]:
        return self.warehouse.execute(query).fetchall()

    def staging_tables(self) -> list[str]:
        query = "select relname from pg_class where relnamespace = '_elt'::regnamespace and relname like 'staging%'"
        return [row[0] for row in self.raw(query)]

    def dump(self, connection: Connection, relation: str, columns: str, where: str = "true") -> bytes:
        """The rows as COPY text ordered by their text, the form in which both sides have to agree byte for byte."""
        query = f'copy (select {columns} from {relation} t where {where} order by t.*::text collate "C") to stdout'
        return self._copy(connection, query)

    @staticmethod
    def _copy(connection: Connection, query: str) -> bytes:
        with connection.cursor().copy(query) as copy:
            return b"".join(bytes(block) for block in copy)

    def assert_same(self, columns: str, table: str, order: str) -> None:
        """Both sides, by key, as COPY text under the pinned settings: byte for byte the same."""
        query = f"copy (select {columns} from {{}}.{table} t order by {order}) to stdout"
        assert self._copy(self.warehouse, query.format("raw_shop")) == self._copy(self.source, query.format("public"))

    def assert_equal(self, columns: str = "id, amount, updated_at", table: str = "orders") -> None:
        select = f"(select {columns} from {{}})"
        source = self.dump(self.source, select.format(f"public.{table}"), "*")
        raw = self.dump(self.warehouse, select.format(f"raw_shop.{table} where _deleted_at is null"), "*")
        assert raw == source

    def connect_source(self) -> Connection:
        return pin(psycopg.connect(self.source_dsn, options="-c elt.salt=SALT"), read_only=True)

    def connect_warehouse(self) -> Connection:
        return pin(psycopg.connect(self.warehouse_dsn), read_only=False)

    def beside(self) -> "Pipeline":
        """The same databases through sessions of its own: another task process."""
        return replace(self, source=self.connect_source(), warehouse=self.connect_warehouse())


@contextmanager
def between(source_dsn: str, warehouse_dsn: str) -> Iterator[Pipeline]:
    """A pipeline from one database to another."""
    app = psycopg.connect(source_dsn, autocommit=True)
    made = Pipeline(app, None, None, source_dsn, warehouse_dsn)  # type: ignore[arg-type]
    made.source, made.warehouse = made.connect_source(), made.connect_warehouse()
    yield made
    for connection in (made.app, made.source, made.warehouse):
        connection.close()


@pytest.fixture
def pipeline(postgres: Postgres) -> Iterator[Pipeline]:
    with between(postgres.database(), postgres.database()) as made:
        made.app.execute(
            "create table orders (id bigint primary key, amount numeric, updated_at timestamptz not null default now())"
        )
        yield made


@pytest.fixture
def roles(postgres: Postgres) -> Iterator[Callable[[str], psycopg.Connection]]:
    """The warehouse as `make run` provisions it: sessions as its roles."""
    for _ in range(2):
        provision(postgres.server, dict.fromkeys(ROLES, "secret"))
        with psycopg.connect(postgres.server.superuser_dsn("warehouse")) as connection:
            connection.execute("create schema if not exists raw_shop authorization raw_loader")
    yield lambda role: psycopg.connect(postgres.server.dsn(role, "secret", "warehouse"), autocommit=True)
    with psycopg.connect(postgres.server.superuser_dsn("postgres"), autocommit=True) as connection:
        connection.execute("drop database warehouse with (force)")


@pytest.fixture
def least(pipeline: Pipeline, postgres: Postgres, roles: Callable[[str], psycopg.Connection]) -> Iterator[Pipeline]:
    """A loaded pipeline whose loader owns raw alone, below dbt's views."""
    with between(pipeline.source_dsn, postgres.server.dsn("raw_loader", "secret", "warehouse")) as least:
        least.app.execute("alter table orders add n int; insert into orders values (1, 1, now(), 7)")
        least.run(least.spec())
        with roles("dbt_transformer") as dbt:
            dbt.execute("create view staging.a with (security_barrier) as select id, n from raw_shop.orders")
            dbt.execute("create view marts.b as select id, n + 1 as more from staging.a")
        yield least
