"""Fixtures shared by all tests: a real PostgreSQL server, and fresh databases on it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from include.local.servers import EmbeddedPostgres

ROOT = Path(__file__).resolve().parent.parent


class Postgres:
    """A running server that hands out empty databases."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server = server
        self._numbers = itertools.count(1)

    def database(self, name: str | None = None) -> str:
        """Create an empty database and return its URI, as superuser."""
        name = name or f"test_{next(self._numbers)}"
        with psycopg.connect(self.server.superuser_dsn("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        return self.server.superuser_dsn(name)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres")) as server:
        yield Postgres(server)
