"""The few calls of Airflow's REST API that running and watching a pipeline takes."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from include.local.errors import LocalError

POLL_SECONDS = 1.0
PARSE_SECONDS = 120
TIMEOUT_SECONDS = 120
"""A request that writes waits for as long as a minute where SQLite keeps the metadata."""
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""It is on this machine, whatever proxy leads out of it."""


class Airflow:
    """A session on one Airflow, as one of its users.

    Args:
        url: Of the API server, without a path.

    Raises:
        LocalError: (from every method) nobody answers there, or the answer is a refusal; carries what it said.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self._credentials = {"username": user, "password": password}
        self._token: str | None = None

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One request below /api/v2, its answer read as JSON."""
        if self._token is None:
            self._token = self._send("POST", "/auth/token", self._credentials)["access_token"]
        return self._send(method, f"/api/v2{path}", body)

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run, then make sure that the DAG is not paused; returns the run's id.

        An unpaused DAG makes its own scheduled run at once, and of two runs the one with the earlier `run_after` goes
        first: ours, which somebody waits for.
        """
        self._wait_for(dag_id)
        now = datetime.now(UTC)
        run_id = f"manual__{now:%Y-%m-%dT%H:%M:%S.%f}"
        body = {"dag_run_id": run_id, "logical_date": None, "run_after": (now - timedelta(days=7)).isoformat()}
        self.call("POST", f"/dags/{dag_id}/dagRuns", body | {"conf": conf or {}})
        self.call("PATCH", f"/dags/{dag_id}", {"is_paused": False})
        return run_id

    def state(self, dag_id: str, run_id: str) -> str:
        """State of a run: queued, running, success or failed."""
        return self.call("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id)}")["state"]

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Every task instance of a run."""
        found: list[dict[str, Any]] = []
        while True:
            path = f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances?limit=100&offset={len(found)}"
            page = self.call("GET", path)
            found += page["task_instances"]
            if len(found) >= page["total_entries"] or not page["task_instances"]:
                return found

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """What a task returned (its XCom)."""
        return self._xcom(dag_id, run_id, task_id, -1, "return_value")

    def warnings(self, dag_id: str, run_id: str) -> dict[tuple[str, int], str]:
        """What tasks of a run warn of, by their id and map index: the first hundred."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances"
        left = self.call("GET", f"{path}/~/xcomEntries?xcom_key_pattern=warning&limit=100")["xcom_entries"]
        tasks = [(each["task_id"], each["map_index"]) for each in left if each["key"] == "warning"]
        return {task: self._xcom(dag_id, run_id, *task, "warning") for task in tasks}

    def error(self, dag_id: str, run_id: str, task: dict[str, Any]) -> str:
        """Why a task failed: what it left, else what its log says last, without a traceback; or nothing."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task['task_id']}"
        of_task = f"map_index={task['map_index']}"
        left = self.call("GET", f"{path}/xcomEntries?{of_task}")["xcom_entries"]
        if any(entry["key"] == "error" for entry in left):
            return self._xcom(dag_id, run_id, task["task_id"], task["map_index"], "error")
        lines = self.call("GET", f"{path}/logs/{task['try_number']}?{of_task}&full_content=true")["content"]
        errors = [line["error_detail"][0]["exc_value"] for line in lines if line.get("error_detail")]
        return errors[-1] if errors else ""

    def clear(self, dag_id: str, run_id: str, task_id: str) -> list[str]:
        """Have a task and all that depends on it run again; the ids of the tasks that will."""
        chosen = {"dag_run_id": run_id, "task_ids": [task_id], "include_downstream": True}
        body = {**chosen, "dry_run": False, "only_failed": False}
        cleared = self.call("POST", f"/dags/{dag_id}/clearTaskInstances", body)
        return [task["task_id"] for task in cleared["task_instances"]]

    def follow(self, dag_id: str, run_id: str) -> Iterator[list[dict[str, Any]]]:
        """The run's tasks, again and again until it has ended; the last list is final.

        The server that answers works for the run's tasks too: it is left alone four times as long as it took.
        """
        is_over = False
        while not is_over:
            asked = time.monotonic()
            is_over = self.state(dag_id, run_id) in ("success", "failed")
            found = self.tasks(dag_id, run_id)
            took = time.monotonic() - asked
            yield found
            if not is_over:
                time.sleep(max(POLL_SECONDS, 4 * took))

    def _xcom(self, dag_id: str, run_id: str, task_id: str, map_index: int, key: str) -> Any:
        """What a task left under a key."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task_id}/xcomEntries/{key}?map_index={map_index}"
        return self.call("GET", path)["value"]

    def _wait_for(self, dag_id: str) -> None:
        """Until the DAG is parsed, which may be a while after the services are healthy."""
        end = time.monotonic() + PARSE_SECONDS
        while not self.call("GET", f"/dags?dag_id_pattern={dag_id}")["dags"]:
            broken = self.call("GET", "/importErrors")["import_errors"]
            if broken or time.monotonic() > end:
                said = broken[0]["stack_trace"].strip().splitlines()[-1] if broken else "it was never parsed"
                raise LocalError(f"Airflow has no DAG {dag_id}: {said}")
            time.sleep(POLL_SECONDS)

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with DIRECTLY.open(request, timeout=TIMEOUT_SECONDS) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:500]
            raise LocalError(f"Airflow answered {error.code} to {method} {path}: {said}") from error
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            reason = getattr(error, "reason", error)
            raise LocalError(f"Airflow does not answer at {self.url} ({reason}); start it with `make up`") from error
