"""One way to a PostgreSQL server: what an Airflow connection means to libpq, for whoever opens a session.

Extract, load, the page and the commands use psycopg, dbt uses psycopg2; both hand these parameters to libpq as they
are, and what a connection does not say, libpq takes from its own variables (`PGSSLMODE`) for all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from psycopg.pq import Conninfo

from include.errors import ConfigError

Parameters = dict[str, str]
"""What libpq is told, by its own names."""

NOT_FOR_LIBPQ = frozenset(
    "autocommit aws_conn_id azure_conn_id cluster-identifier context cursor cursor_factory iam prepare_threshold "
    "redshift redshift-serverless row_factory sqlalchemy_query sqlalchemy_scheme workgroup-name".split()
)
"""Extras that speak to `PostgresHook` or to psycopg: in which form rows come, or from where a password does."""

VARIABLES = {option.keyword.decode(): (option.envvar or b"").decode() for option in Conninfo.get_defaults()}
"""libpq's parameters, each with its variable; empty where it has none."""

_IN_PROFILE = ("sslmode", "sslrootcert", "sslcert", "sslkey")

PATIENCE = frozenset("keepalives keepalives_idle keepalives_interval keepalives_count tcp_user_timeout".split())
"""Parameters that say how soon a dead peer is noticed, not who is reached and how."""


NOT_POSTGRES = (
    "an AIRFLOW_CONN_… variable is no PostgreSQL connection: "
    "write postgresql://user:password@host:5432/database, or Airflow's JSON"
)


class Described(Protocol):
    """An Airflow connection, as far as a session needs it."""

    conn_id: Any
    host: Any
    login: Any
    password: Any
    schema: Any
    port: Any

    @property
    def extra_dejson(self) -> dict[str, Any]: ...


def libpq_parameters(connection: Described, **defaults: str | int) -> Parameters:
    """What libpq is told for an Airflow connection: `PostgresHook`'s own, whatever type of JSON an extra is written in.

    Args:
        defaults: What holds where the connection's extra says nothing else.

    Raises:
        ConfigError: an extra can be no parameter, or libpq has none of its name.
    """
    named = {"host": connection.host, "port": connection.port, "dbname": connection.schema}
    named |= {"user": connection.login, "password": connection.password}
    extra = {name: value for name, value in connection.extra_dejson.items() if name not in NOT_FOR_LIBPQ}
    given = {name: _text(connection.conn_id, name, value) for name, value in {**named, **defaults, **extra}.items()}
    if unknown := sorted(given.keys() - VARIABLES.keys()):
        raise ConfigError(
            f"connection {connection.conn_id}: libpq has no parameter {unknown[0]!r}; remove it from the extra, or "
            "correct its name (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS)"
        )
    parameters = {name: value for name, value in given.items() if value}
    if "host" in parameters:
        parameters["host"] = ",".join(_host(each) for each in parameters["host"].split(","))
    return parameters


def _text(conn_id: str, name: str, value: Any) -> str:
    """A value of JSON as libpq reads it, which writes truth as 1 and 0."""
    if isinstance(value, dict | list):
        raise ConfigError(
            f"connection {conn_id}: the extra {name!r} is {json.dumps(value)}; write text, a number or true"
        )
    return str(int(value)) if isinstance(value, bool) else "" if value is None else str(value)


def _host(host: str) -> str:
    """A folder of sockets may stand percent-encoded, an IPv6 address in brackets: as in a URI."""
    if host[:3].upper() == "%2F":
        return unquote(host)
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


class _Written:
    """A connection as `AIRFLOW_CONN_…` has it, read as Airflow does."""

    conn_id = "of an AIRFLOW_CONN_… variable"

    def __init__(self, text: str) -> None:
        self.extra: Any = None
        if text.lstrip().startswith("{"):
            given = {"host": None, "login": None, "password": None, "schema": None, "port": None, **json.loads(text)}
            self.conn_type = given.get("conn_type")
            self.host, self.login, self.password = given["host"], given["login"], given["password"]
            self.schema, self.port, self.extra = given["schema"], int(given["port"] or 0) or None, given.get("extra")
        else:
            parts = urlsplit(text)
            query = dict(parse_qsl(parts.query, keep_blank_values=True))
            self.conn_type = parts.scheme
            self.host, self.port, self.schema = unquote(parts.hostname or ""), parts.port, unquote(parts.path[1:])
            self.login, self.password = unquote(parts.username or ""), unquote(parts.password or "")
            self.extra = query.get("__extra__", query)

    @property
    def extra_dejson(self) -> dict[str, Any]:
        return json.loads(self.extra) if isinstance(self.extra, str) and self.extra else self.extra or {}


def written_parameters(text: str) -> Parameters:
    """`libpq_parameters` of what an `AIRFLOW_CONN_…` variable holds, a URI or JSON.

    Raises:
        ConfigError: it is no PostgreSQL connection, or libpq cannot be told what it says.
    """
    try:
        connection = _Written(text)
        extra = connection.extra_dejson
    except (ValueError, TypeError, AttributeError):
        connection, extra = None, {}
    if not connection or connection.conn_type not in ("postgres", "postgresql") or not isinstance(extra, dict):
        raise ConfigError(NOT_POSTGRES)
    return libpq_parameters(connection)


def completed(parameters: Mapping[str, str]) -> Parameters:
    """With what libpq would take from its variables, or from the operating system, for what is not given.

    Raises:
        ConfigError: a service file decides which database is reached, and dbt has to name it.
    """
    defaults = {each.keyword.decode(): each.val.decode() for each in Conninfo.get_defaults() if each.val}
    found = {**defaults, **parameters}
    if "dbname" not in found and "service" in found:
        raise ConfigError(
            "the connection leaves its database to a libpq service; name it, as dbt writes it into relations"
        )
    return {"dbname": found.get("user", ""), "host": "", "user": "", **found}


def profile_variables(parameters: Mapping[str, str]) -> Parameters:
    """What `dbt/profiles.yml` reads of a connection: dbt shows it (`target.dbname`) and names relations with it.

    Raises:
        ConfigError: the database has no name.
    """
    known = completed(parameters)
    variables = {
        "DBT_HOST": known["host"],
        "DBT_PORT": known.get("port", "5432").split(",")[0],
        "DBT_USER": known["user"],
        "DBT_ENV_SECRET_PASSWORD": known.get("password", ""),
        "DBT_DBNAME": known["dbname"],
    }
    return variables | {f"DBT_{name.upper()}": parameters[name] for name in _IN_PROFILE if name in parameters}


def libpq_variables(parameters: Mapping[str, str]) -> Parameters:
    """libpq's own variables for what `profile_variables` does not hold: for a dbt that a person starts.

    `PATIENCE` has none, and is left to the profile.

    Raises:
        ConfigError: a parameter can be passed on in no way.
    """
    left = parameters.keys() - {"host", "port", "user", "password", "dbname", *_IN_PROFILE} - PATIENCE
    if unsaid := sorted(name for name in left if not VARIABLES[name]):
        raise ConfigError(
            f"libpq has no variable for {unsaid[0]!r}, so that a dbt command cannot be told of it; leave it out"
        )
    if len(set(parameters.get("port", "").split(","))) > 1:
        raise ConfigError("dbt's profile knows one port: a dbt command cannot be told of several")
    return {VARIABLES[name]: parameters[name] for name in sorted(left)}
