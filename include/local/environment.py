"""The environment of every process of the local installation, computed from the checkout and what the user set."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from include.local.databases import ROLES, SOURCE, WAREHOUSE
from include.local.errors import LocalError
from include.local.servers import EmbeddedPostgres

ROOT = Path(__file__).resolve().parent.parent.parent


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
    def metadata(self) -> Path:
        """Airflow's metadata database (SQLite)."""
        return self.airflow_home / "airflow.db"

    def server(self, port: int | None = None) -> EmbeddedPostgres:
        return EmbeddedPostgres(self.state / "postgres", port)

    def secrets(self) -> dict[str, str]:
        """Generated passwords and keys, made once and readable by their owner alone."""
        path = self.state / "credentials.json"
        if not path.exists():
            self.state.mkdir(parents=True, exist_ok=True)
            made = {name: secrets.token_urlsafe(18) for name in (*ROLES, "admin", "jwt", "session")}
            made["fernet"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
            fresh = path.with_suffix(".new")
            fresh.touch(mode=0o600)
            fresh.write_text(json.dumps(made, indent=2))
            fresh.rename(path)
        return json.loads(path.read_text())


def installation() -> Installation:
    """The installation of this checkout: `.local`, or where `ELT_STATE` says."""
    return Installation(Path(user_environment().get("ELT_STATE") or ROOT / ".local").resolve())


def user_environment() -> dict[str, str]:
    """The process environment over the checkout's `.env` file, if there is one.

    Raises:
        LocalError: a line of `.env` is not KEY=VALUE.
    """
    path = ROOT / ".env"
    given = {key: value for key, value in os.environ.items() if value}  # make passes on what is unset as empty
    return {**(parse_env_file(path) if path.exists() else {}), **given}


def number(user: dict[str, str], name: str, default: int | None = None) -> int | None:
    """A variable that has to be a whole number above zero; `default` where it is not set.

    Raises:
        LocalError: it is something else.
    """
    value = user.get(name)
    if value is None:
        return default
    if not value.isdecimal() or int(value) == 0:
        raise LocalError(f"{name} is {value!r}; write a whole number above zero")
    return int(value)


def parse_env_file(path: Path) -> dict[str, str]:
    """KEY=VALUE lines; `#` starts a comment line, quotes around a value are taken off."""
    values = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.removeprefix("export ").partition("=")
        if not equals or not key.strip().isidentifier():
            raise LocalError(f"{path.name} line {number} is {line!r}; write KEY=VALUE, or # before a comment")
        values[key.strip()] = value.strip().strip("'\"")
    return values


def needs_embedded_server(user: dict[str, str]) -> bool:
    """Whether at least one side is not a server of the user's own."""
    return not (user.get("AIRFLOW_CONN_SHOP") and user.get("AIRFLOW_CONN_WAREHOUSE"))


def connections(here: Installation, user: dict[str, str]) -> dict[str, str]:
    """`AIRFLOW_CONN_*` of source and warehouse: the user's, else the embedded server's, each with its own role."""
    made = {}
    if needs_embedded_server(user):
        server, password = here.server(), here.secrets()
        roles = {"SHOP": ("shop_reader", SOURCE), "WAREHOUSE": ("raw_loader", WAREHOUSE)}
        roles["WAREHOUSE_DBT"] = ("dbt_transformer", WAREHOUSE)
        made = {f"AIRFLOW_CONN_{name}": server.dsn(role, password[role], db) for name, (role, db) in roles.items()}
    if user.get("AIRFLOW_CONN_WAREHOUSE"):
        made["AIRFLOW_CONN_WAREHOUSE_DBT"] = user["AIRFLOW_CONN_WAREHOUSE"]
    names = ("AIRFLOW_CONN_SHOP", "AIRFLOW_CONN_WAREHOUSE", "AIRFLOW_CONN_WAREHOUSE_DBT")
    return made | {name: user[name] for name in names if user.get(name)}


def libpq_uri(connection: str) -> str:
    """An Airflow connection, written as URI or as JSON, as a libpq URI."""
    if not connection.lstrip().startswith("{"):
        return "postgresql://" + connection.partition("://")[2].removesuffix("?__extra__=%7B%7D")
    given = json.loads(connection)
    user, password = (quote(given.get(name) or "", safe="") for name in ("login", "password"))
    extra = given.get("extra") or {}
    extra = json.loads(extra) if isinstance(extra, str) else extra
    query = f"?{urlencode(extra)}" if extra else ""
    return (
        f"postgresql://{user}:{password}@{given.get('host', '')}:{given.get('port') or 5432}/{given['schema']}{query}"
    )


def airflow_settings(here: Installation, api_port: int) -> dict[str, str]:
    """Airflow's configuration: everything below the state folder, nothing reported home, no example DAGs."""
    secret = here.secrets()
    settings = {
        "core": {
            "dags_folder": str(ROOT / "dags"),
            "plugins_folder": str(ROOT / "plugins"),
            "load_examples": "False",
            "executor": "LocalExecutor",
            "parallelism": "4",
            "fernet_key": secret["fernet"],
            "simple_auth_manager_users": "admin:admin",
            "simple_auth_manager_passwords_file": str(here.airflow_home / "passwords.json"),
            "execution_api_server_url": f"http://127.0.0.1:{api_port}/execution/",
        },
        "database": {"sql_alchemy_conn": f"sqlite:///{here.metadata}"},
        "api": {"host": "127.0.0.1", "port": str(api_port), "secret_key": secret["session"], "expose_config": "False"},
        "api_auth": {"jwt_secret": secret["jwt"]},
        "dag_processor": {"refresh_interval": "30"},
        "cosmos": {"enable_telemetry": "False"},
        "usage_data_collection": {"enabled": "False"},
    }
    settings["api"]["base_url"] = f"http://127.0.0.1:{api_port}"
    return {
        f"AIRFLOW__{section.upper()}__{key.upper()}": value
        for section, values in settings.items()
        for key, value in values.items()
    }


def environment(here: Installation, user: dict[str, str], api_port: int = 8080) -> dict[str, str]:
    """The full environment of a child process. What the user set wins over what is computed here."""
    made = {
        "AIRFLOW_HOME": str(here.airflow_home),
        "PYTHONPATH": str(ROOT),
        "DBT_TARGET_PATH": str(here.state / "dbt"),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "SCARF_ANALYTICS": "false",
        "XDG_RUNTIME_DIR": str(here.state),
        **airflow_settings(here, api_port),
    }
    bin_dir = str(ROOT / ".venv" / "bin")
    path = {"PATH": f"{bin_dir}:{user.get('PATH', '')}"}
    return {**made, **user, **connections(here, user), **path, "AIRFLOW_HOME": made["AIRFLOW_HOME"]}


def write_shell_file(here: Installation, computed: dict[str, str]) -> Path:
    """`.local/env`, for `. .local/env && airflow …` in a person's own shell. Readable by its owner alone."""
    path = here.state / "env"
    mine = sorted(key for key in computed if key not in os.environ or computed[key] != os.environ[key])
    path.touch(mode=0o600)
    path.write_text("".join(f"export {key}={shlex.quote(computed[key])}\n" for key in mine))
    return path
