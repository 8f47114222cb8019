"""`make ui`: Airflow's four services on the local state, until Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from include.files import write_whole
from include.local.environment import Installation
from include.local.errors import LocalError
from include.local.progress import Console
from include.local.servers import HOST, is_free

Say = Callable[[str], None]
SERVICES = {
    "api-server": [],
    "scheduler": ["--skip-serve-logs"],
    "dag-processor": [],
    "triggerer": ["--skip-serve-logs"],
}
"""What runs, with its options: on one machine logs are read from their files, and nothing serves them to others."""
START_SECONDS = 300
READY = "Airflow is at "
"""How the line begins that is printed once all are healthy."""
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Loopback is no proxy's business."""


def serve(here: Installation, environment: dict[str, str], port: int, lock: int, console: Console) -> None:
    """Start the services, print where the UI is once all are healthy, and wait.

    Args:
        here: The installation.
        environment: Of the services.
        port: Of the UI.
        lock: Descriptor that the services keep open, so that nobody starts others if this process is killed.
        console: Where it says what it waits for.

    Raises:
        LocalError: the port is taken, or a service ended or did not become healthy; names its log.
    """
    if not is_free(port):
        raise LocalError(f"port {port} is in use by another program; choose another with UI_PORT=")
    password = here.secrets()["admin"]
    write_whole(here.airflow_home / "passwords.json", json.dumps({"admin": password}))
    children: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for service, options in SERVICES.items():
            log = here.logs / f"{service}.log"
            children[service] = _start(["airflow", service, *options], environment, log, lock)
        with console.waiting(f"{', '.join(SERVICES)} are started") as say:
            _wait_until_healthy(here, children, port, say)
        console.status("")
        print(f"{READY}http://{HOST}:{port}   user: admin   password: {password}\nCtrl-C stops it.", flush=True)
        _wait_for_end(here, children)
    finally:
        with console.waiting("Airflow is stopped"):
            _stop(list(children.values()))


def _start(command: list[str], environment: dict[str, str], log: Path, lock: int) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True, pass_fds=[lock]
        )


def _wait_until_healthy(here: Installation, children: dict[str, subprocess.Popen[bytes]], port: int, say: Say) -> None:
    url = f"http://{HOST}:{port}"
    components = {"metadatabase", "scheduler", "dag_processor", "triggerer"}
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        _refuse_dead(here, children)
        try:
            with DIRECTLY.open(f"{url}/api/v2/monitor/health", timeout=5) as response:
                health = json.load(response)
            waited_for = sorted(name for name in components if health[name]["status"] != "healthy")
            if not waited_for:
                # What tasks ask is made when it is first asked, which takes seconds: not in the first task's time.
                DIRECTLY.open(f"{url}/execution/health", timeout=START_SECONDS).close()
                return
            say(f"{', '.join(waited_for)} not healthy yet")
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            pass
        time.sleep(0.5)
    raise LocalError(f"Airflow was not healthy after {START_SECONDS} seconds; the logs are in {here.logs}")


def _refuse_dead(here: Installation, children: dict[str, subprocess.Popen[bytes]]) -> None:
    for service, child in children.items():
        if child.poll() is not None:
            raise LocalError(f"airflow {service} ended by itself; see {here.logs / (service + '.log')}")


def _wait_for_end(here: Installation, children: dict[str, subprocess.Popen[bytes]]) -> None:
    while True:
        _refuse_dead(here, children)
        time.sleep(1)


def _stop(children: list[subprocess.Popen[bytes]]) -> None:
    for sent, patience in ((signal.SIGTERM, 15), (signal.SIGKILL, 5)):
        end = time.monotonic() + patience
        for child in children:
            if child.poll() is None:
                os.killpg(child.pid, sent)
        for child in children:
            try:
                child.wait(timeout=max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
