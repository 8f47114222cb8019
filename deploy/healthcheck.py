"""Whether the service in this container is healthy: exit code 0 or 1. Knows the service from the container's command.

No Airflow command is run: each costs seconds of CPU, and this is asked four times a minute in every container.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import urllib.request
from pathlib import Path

SEEN_BY_API_SERVER = {
    "api-server": ("localhost", "metadatabase"),
    "dag-processor": ("api-server", "dag_processor"),
    "triggerer": ("api-server", "triggerer"),
}


def is_healthy(service: str) -> bool:
    """The service's own answer; dag-processor and triggerer give none, so the API server tells when they last beat."""
    if service == "worker":
        from celery import Celery

        name = f"celery@{socket.gethostname()}"
        inspect = Celery(broker=os.environ["AIRFLOW__CELERY__BROKER_URL"]).control.inspect([name], timeout=5)
        return name in (inspect.ping() or {})
    if service == "scheduler":
        with urllib.request.urlopen("http://localhost:8974/health", timeout=5) as response:
            return response.status == 200
    host, component = SEEN_BY_API_SERVER[service]
    if service == "api-server":
        # What tasks ask is made when it is first asked, which takes seconds: not in the first task's time.
        urllib.request.urlopen(f"http://{host}:8080/execution/health", timeout=15).close()
    with urllib.request.urlopen(f"http://{host}:8080/api/v2/monitor/health", timeout=5) as response:
        return json.load(response)[component]["status"] == "healthy"


if __name__ == "__main__":
    command = Path("/proc/1/cmdline").read_bytes().replace(b"\0", b" ").decode()
    found = re.search(r"\b(api-server|scheduler|dag-processor|triggerer|worker)\b", command)
    if found is None:
        sys.exit(f"no service of Airflow is in this container's command: {command}")
    sys.exit(0 if is_healthy(found[1]) else f"{found[1]} is not healthy")
