"""The environment of every process of the local installation, computed from the checkout and what the user set."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from include.connecting import NOT_POSTGRES, Parameters, profile_variables, written_parameters
from include.errors import ConfigError
from include.files import write_whole
from include.local.databases import METADATA, ROLES, WAREHOUSE
from include.local.dotenv import parse_env_file
from include.local.errors import LocalError
from include.local.sample import SAMPLE
from include.local.servers import EmbeddedPostgres

ROOT = Path(__file__).resolve().parent.parent.parent

BIN_DIR = ROOT / ".venv" / "bin"

PARSE_SECONDS = 300
"""Seconds that Airflow waits for a DAG file: dbt's first parse of a large project takes part of it, and stopped by
Airflow's own 30 it would begin anew each time."""

PLACES = (
    "AIRFLOW_HOME",
    "AIRFLOW_CONFIG",
    "AIRFLOW__CORE__DAGS_FOLDER",
    "AIRFLOW__CORE__PLUGINS_FOLDER",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "DBT_TARGET_PATH",
    "PYTHONPATH",
)
"""Variables that are never taken from the user's shell."""

_WAREHOUSE = {"AIRFLOW_CONN_WAREHOUSE": "raw_loader", "AIRFLOW_CONN_WAREHOUSE_DBT": "dbt_transformer"}
"""The connections to the warehouse, and the embedded server's role of each."""

SOURCED = "ELT_SOURCED"
"""Set by `.local/env`: a mark for each variable that came from there, and so is not the user's own."""


@dataclass(frozen=True)
class Installation:
    """Paths and secrets of one local installation; everything it writes is below `state`."""

    state: Path

    @property
    def airflow_home(self) -> Path:
        return self.state / "airflow"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def metadata(self) -> str:
        """libpq URI of Airflow's metadata database, on the embedded server."""
        return self.server().dsn(METADATA, self.secrets()[METADATA], METADATA)

    def server(self, port: int | None = None) -> EmbeddedPostgres:
        return EmbeddedPostgres(self.state / "postgres", port)

    def secrets(self) -> dict[str, str]:
        """Generated passwords and keys, each made once and readable by their owner alone."""
        path = self.state / "credentials.json"
        kept = json.loads(path.read_text()) if path.exists() else {}
        made = {name: secrets.token_urlsafe(18) for name in (*ROLES, "admin", "session")}
        made["jwt"] = secrets.token_urlsafe(64)
        made["fernet"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
        if made.keys() - kept.keys():
            self.state.mkdir(parents=True, exist_ok=True)
            kept = made | kept
            write_whole(path, json.dumps(kept, indent=2))
        return kept


def installation() -> Installation:
    """The installation of this checkout: `.local`, or where `ELT_STATE` says."""
    return Installation(Path(user_environment().get("ELT_STATE") or ROOT / ".local").resolve())


def user_environment() -> dict[str, str]:
    """What the user set: the process environment over the checkout's `.env` file, if there is one.

    Raises:
        LocalError: a line of `.env` is not KEY=VALUE.
    """
    path = ROOT / ".env"
    given = {key: value for key, value in _without_sourced(os.environ).items() if value}  # make exports unset as empty
    return {**(parse_env_file(path) if path.exists() else {}), **given}


def number(user: Mapping[str, str], name: str, default: int | None = None, highest: int = 10**9) -> int | None:
    """A variable that has to be a whole number above zero; `default` where it is not set.

    Raises:
        LocalError: it is something else.
    """
    value = user.get(name)
    if value is None:
        return default
    if not value.isdecimal() or not 0 < int(value) <= highest:
        raise LocalError(f"{name} is {value!r}; write a whole number above zero, at most {highest}")
    return int(value)


def _without_sourced(variables: Mapping[str, str]) -> dict[str, str]:
    marks = set(variables.get(SOURCED, "").split())
    return {key: value for key, value in variables.items() if key != SOURCED and _mark(key, value) not in marks}


def _mark(key: str, value: str) -> str:
    return hashlib.sha256(f"{key}={value}".encode()).hexdigest()[:12]


def connections(here: Installation, user: dict[str, str]) -> dict[str, str]:
    """`AIRFLOW_CONN_*` of warehouse and sample: the user's, else the embedded server's, each with its own role."""
    server, password = here.server(), here.secrets()
    roles = {variable: (role, WAREHOUSE) for variable, role in _WAREHOUSE.items()}
    if SAMPLE:
        roles[SAMPLE.variable] = (SAMPLE.reader, SAMPLE.name)
    made = {variable: server.dsn(role, password[role], db) for variable, (role, db) in roles.items()}
    if user.get("AIRFLOW_CONN_WAREHOUSE"):
        made["AIRFLOW_CONN_WAREHOUSE_DBT"] = user["AIRFLOW_CONN_WAREHOUSE"]
    names = (*_WAREHOUSE, *((SAMPLE.variable,) if SAMPLE else ()))
    return made | {name: user[name] for name in names if user.get(name)}


def libpq_uri(connection: str) -> str:
    """An Airflow connection, written as URI or as JSON, as a libpq URI.

    Raises:
        LocalError: it is not a PostgreSQL connection with a host and a database.
    """
    given = parameters_of(connection)
    if not given.get("host") or not given.get("dbname"):
        raise LocalError(f"{NOT_POSTGRES}, with host and schema")
    host, port, dbname = given.pop("host"), given.pop("port", ""), quote(given.pop("dbname"), safe="")
    login = quote(given.pop("user", ""), safe="") + "".join(
        f":{quote(word, safe='')}" for word in [given.pop("password", "")] if word
    )
    if "," in host + port or host.startswith("/"):
        given, host, port = {"host": host, **({"port": port} if port else {}), **given}, "", ""
    elif ":" in host:
        host = f"[{host}]"
    query = urlencode(given, quote_via=quote)
    place = (f"{login}@" if login else "") + host + (f":{port}" if port else "")
    return f"postgresql://{place}/{dbname}" + (f"?{query}" if query else "")


def parameters_of(connection: str) -> Parameters:
    """What libpq is told for an Airflow connection, written as URI or as JSON.

    Raises:
        LocalError: it is not a PostgreSQL connection, or says something that libpq cannot be told.
    """
    try:
        return written_parameters(connection)
    except ConfigError as error:
        raise LocalError(str(error)) from error


def airflow_settings(here: Installation, api_port: int) -> dict[str, str]:
    """Airflow's configuration: everything below the state folder, nothing reported home, no example DAGs."""
    secret = here.secrets()
    settings = {
        "core": {
            "dags_folder": str(ROOT / "dags"),
            "plugins_folder": str(ROOT / "plugins"),
            "load_examples": "False",
            "dagbag_import_timeout": str(PARSE_SECONDS),
            "executor": "LocalExecutor",
            "parallelism": "4",
            "fernet_key": secret["fernet"],
            "simple_auth_manager_users": "admin:admin",
            "simple_auth_manager_passwords_file": str(here.airflow_home / "passwords.json"),
            "execution_api_server_url": f"http://127.0.0.1:{api_port}/execution/",
        },
        # Whoever starts a command here has migrated (include/local/pipeline.py); looking again takes 0.5 s.
        "database": {"check_migrations": "False"},
        "api": {"host": "127.0.0.1", "port": str(api_port), "secret_key": secret["session"], "expose_config": "False"},
        "api_auth": {"jwt_secret": secret["jwt"]},
        "dag_processor": {"refresh_interval": "30", "dag_file_processor_timeout": str(PARSE_SECONDS + 30)},
        "cosmos": {"enable_telemetry": "False"},
        "usage_data_collection": {"enabled": "False"},
        # A busy machine may take longer than Airflow's 5 s to answer a task that begins, which then fails.
        "workers": {"execution_api_timeout": "60"},
    }
    settings["api"]["base_url"] = f"http://127.0.0.1:{api_port}"
    return {
        f"AIRFLOW__{section.upper()}__{key.upper()}": value
        for section, values in settings.items()
        for key, value in values.items()
    }


def environment(here: Installation, user: dict[str, str], api_port: int = 8080) -> dict[str, str]:
    """The full environment of a child process.

    What the user set wins, save for where things are: another project's AIRFLOW_HOME, metadata database or PYTHONPATH
    in the person's shell must not be touched from here.
    """
    made = {
        "AIRFLOW_HOME": str(here.airflow_home),
        "AIRFLOW_CONFIG": str(here.airflow_home / "airflow.cfg"),
        "PYTHONPATH": str(ROOT),
        "DBT_TARGET_PATH": str(here.state / "dbt"),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "SCARF_ANALYTICS": "false",
        "XDG_RUNTIME_DIR": str(here.state),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": here.metadata.replace("postgresql:", "postgresql+psycopg2:"),
        **airflow_settings(here, api_port),
    }
    places = {name: made[name] for name in PLACES}
    path = {"PATH": f"{BIN_DIR}:{user.get('PATH', '')}"}
    reached = connections(here, user)
    dbt = profile_variables(parameters_of(reached["AIRFLOW_CONN_WAREHOUSE_DBT"]))
    return {**made, **user, **reached, **dbt, **path, **places, **_no_proxy(user)}


@contextmanager
def entered(variables: Mapping[str, str]) -> Iterator[None]:
    """This process has the environment of a child: what it has dbt parse, children need not parse again."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _no_proxy(user: Mapping[str, str]) -> dict[str, str]:
    """Airflow's processes ask each other on loopback, whatever proxy leads out of the machine."""
    direct = (user.get("no_proxy") or user.get("NO_PROXY") or "").split(",")
    names = ",".join(dict.fromkeys(filter(None, [*direct, "127.0.0.1", "localhost"])))
    return {"no_proxy": names, "NO_PROXY": names}


def write_shell_file(here: Installation, computed: dict[str, str]) -> Path:
    """`.local/env`, for `. .local/env && airflow …` in a person's own shell. Readable by its owner alone."""
    path = here.state / "env"
    given = _without_sourced(os.environ)
    mine = {key: value for key, value in sorted(computed.items()) if key != "PATH" and given.get(key) != value}
    marks = " ".join(_mark(key, value) for key, value in mine.items())
    lines = [f"export {key}={shlex.quote(value)}\n" for key, value in {**mine, SOURCED: marks}.items()]
    write_whole(path, "".join([*lines, f'export PATH={shlex.quote(str(BIN_DIR))}:"$PATH"\n']))
    return path
