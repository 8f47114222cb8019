"""What an attacker, or a mistake, finds closed on the running containers."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from typing import Any

import pytest

from include.compose.airflow_api import Airflow
from include.local.errors import LocalError
from tests.containers.conftest import Stack

AIRFLOW_SERVICES = ("api-server", "scheduler", "dag-processor", "triggerer")
SERVICES = (*AIRFLOW_SERVICES, "source-db", "warehouse-db", "metadata-db")


@pytest.fixture(scope="module")
def inspected(stack: Stack) -> dict[str, Any]:
    """`docker inspect` by service, of the containers that run."""
    found = {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in stack.containers(*SERVICES)}
    assert set(found) == set(SERVICES)
    return found


@pytest.fixture(scope="module")
def declared(stack: Stack) -> dict[str, Any]:
    """Every service of the compose file, profiles included, as Compose understands it."""
    services = json.loads(stack.compose("--profile", "*", "config", "--format", "json"))["services"]
    assert {"redis", "airflow-worker", "shop", "dbt", "psql"} <= set(services)
    return services


def test_every_service_is_declared_hardened(declared: dict[str, Any]) -> None:
    one_shot = {"airflow-init", "shop", "dbt", "psql"}
    for name, service in declared.items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"] not in ("", "root", "0", "0:0"), name
        assert {"cpus", "memory", "pids"} <= set(service["deploy"]["resources"]["limits"]), name
        assert "test" in service.get("healthcheck", {}) or name in one_shot, name
        assert not service.get("privileged") and "cap_add" not in service, name


@pytest.mark.parametrize("service", SERVICES)
def test_a_running_container_has_no_privileges(stack: Stack, inspected: dict[str, Any], service: str) -> None:
    host = inspected[service]["HostConfig"]
    assert host["ReadonlyRootfs"] and not host["Privileged"] and host["Memory"] > 0 and host["PidsLimit"] > 0
    probe = "id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs):' /proc/self/status; touch /x /usr/x /opt/x || echo read-only"
    uid, *rest = stack.compose("exec", "-T", service, "sh", "-c", probe).split("\n")
    assert int(uid) > 0
    values = dict(line.split(":\t") for line in rest if ":" in line)
    assert int(values["CapEff"], 16) == int(values["CapBnd"], 16) == 0 and values["NoNewPrivs"] == "1"
    assert "read-only" in rest


def test_only_the_ui_is_published_and_on_loopback(inspected: dict[str, Any]) -> None:
    published = {
        (service, port, binding["HostIp"])
        for service, each in inspected.items()
        for port, bindings in each["NetworkSettings"]["Ports"].items()
        for binding in bindings or ()
    }
    assert published == {("api-server", "8080/tcp", "127.0.0.1")}


def reaches(stack: Stack, service: str, host: str) -> bool:
    """Whether the service can open a connection to PostgreSQL on the host."""
    script = f"import socket; socket.create_connection(({host!r}, 5432), timeout=3); print('opened')"
    return "opened\n" in stack.compose("exec", "-T", service, "python", "-c", script, check=False)


@pytest.mark.parametrize("service", ["dag-processor", "triggerer"])
def test_what_asks_no_server_cannot_reach_the_source(stack: Stack, inspected: dict[str, Any], service: str) -> None:
    address = next(iter(inspected["source-db"]["NetworkSettings"]["Networks"].values()))["IPAddress"]
    assert reaches(stack, "scheduler", "source-db") and reaches(stack, "scheduler", address)
    assert not reaches(stack, service, "source-db")
    assert not reaches(stack, service, address)


@pytest.mark.parametrize("service", AIRFLOW_SERVICES)
def test_only_what_runs_tasks_knows_the_databases_passwords(
    stack: Stack, inspected: dict[str, Any], service: str
) -> None:
    environment = "\n".join(inspected[service]["Config"]["Env"])
    of_tasks, of_page = {"SHOP_READER", "RAW_LOADER", "DBT_TRANSFORMER"}, {"ELT_WATCHER"}
    known = {role for role in of_tasks | of_page if stack.settings[f"{role}_PASSWORD"] in environment}
    assert known == {"scheduler": of_tasks, "api-server": of_page}.get(service, set())


def test_code_belongs_to_root_and_there_is_no_compiler(stack: Stack) -> None:
    probe = """
        find dags include dbt plugins venv manifest ! -user root | head -n 5
        for tool in cc gcc g++ c++ clang ld as rustc cargo go; do command -v $tool; done
        find / -xdev -name .env 2>/dev/null
        python -c 'import pytest' 2>&1 | grep -o ModuleNotFoundError
    """
    assert stack.compose("exec", "-T", "scheduler", "bash", "-c", probe, check=False) == "ModuleNotFoundError\n"


def test_no_secret_is_in_a_layer_or_in_the_history(stack: Stack) -> None:
    image = stack.settings["IMAGE"]
    secrets = [value for name, value in stack.settings.items() if name not in ("UI_PORT", "ROWS", "SEED", "IMAGE")]
    assert len(secrets) >= 15
    saved = subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE)
    patterns = [part for value in secrets for part in ("-e", value)]
    found = subprocess.run(["grep", "-c", "-a", "-F", *patterns], stdin=saved.stdout, capture_output=True, text=True)
    assert saved.wait() == 0 and found.stdout.strip() == "0"
    history = subprocess.check_output(["docker", "history", "--no-trunc", image], text=True)
    assert not [word for word in ("PASSWORD=", "SECRET=", "FERNET_KEY=") if word in history]
    labels = json.loads(subprocess.check_output(["docker", "image", "inspect", image]))[0]["Config"]["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "MIT"


def test_nobody_asks_the_api_without_a_token(stack: Stack) -> None:
    api = ("/api/v2/dags/elt_pipeline", "/api/v2/connections", "/api/v2/variables", "/api/v2/config")
    for path in (*api, "/pipeline-health/", "/pipeline-health/tables/shop.orders"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(stack.airflow.url + path, timeout=30)
        assert refused.value.code == 401, path
    with pytest.raises(LocalError, match="401"):
        Airflow(stack.airflow.url, "admin", "admin").call("GET", "/dags")


def test_the_configuration_is_not_shown_and_examples_are_not_loaded(stack: Stack) -> None:
    with pytest.raises(LocalError, match="403"):
        stack.airflow.call("GET", "/config")
    dags = stack.airflow.call("GET", "/dags?limit=100")["dags"]
    assert {"elt_pipeline", "sales_report"} <= {dag["dag_id"] for dag in dags}
    assert all(dag["fileloc"].startswith("/opt/airflow/dags/") for dag in dags)
    assert stack.airflow.call("GET", "/importErrors")["total_entries"] == 0


def test_nothing_is_reported_home(inspected: dict[str, Any]) -> None:
    for service in AIRFLOW_SERVICES:
        environment = dict(each.split("=", 1) for each in inspected[service]["Config"]["Env"])
        for name in ("AIRFLOW__USAGE_DATA_COLLECTION__ENABLED", "AIRFLOW__COSMOS__ENABLE_TELEMETRY"):
            assert environment[name] == "False", service
        assert environment["DBT_SEND_ANONYMOUS_USAGE_STATS"] == environment["SCARF_ANALYTICS"] == "false"
