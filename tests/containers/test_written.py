"""What the runs before left behind, in logs and in Airflow's metadata: no password, and no row of the source."""

from __future__ import annotations

import subprocess

from tests.containers.conftest import CANARY_EMAIL, FirstRun, Stack


def found(text: bytes, values: list[str]) -> list[str]:
    return [value for value in values if value.encode() in text]


def test_no_password_and_no_row_is_in_logs_xcoms_or_rendered_fields(stack: Stack, first_run: FirstRun) -> None:
    own = ("UI_PORT", "ROWS", "SEED", "IMAGE")
    canaries = [CANARY_EMAIL, *(value for name, value in stack.settings.items() if name not in own)]
    assert stack.psql("raw_loader", f"select count(*) from raw_shop.customers where email = '{CANARY_EMAIL}'") == "1"

    archive = ["exec", "-T", "api-server", "tar", "--create", "--file", "-", "--directory", "/opt/airflow/logs", "."]
    logs = subprocess.check_output([*stack.command, *archive])
    assert logs.count(b"task_id=shop.orders.load") > 0 and found(logs, canaries) == []

    printed = subprocess.check_output([*stack.command, "--profile", "celery", "logs"], stderr=subprocess.STDOUT)
    assert len(printed) > 10_000 and found(printed, canaries) == []

    # All of the metadata: XComs, rendered fields, serialized DAGs, audit log.
    dump = ["exec", "-T", "metadata-db", "pg_dump", "--username", "postgres", "--inserts", "airflow"]
    metadata = subprocess.check_output([*stack.command, *dump])
    for table in (b"public.xcom ", b"public.rendered_task_instance_fields ", b"public.serialized_dag "):
        assert b"INSERT INTO " + table in metadata, table
    assert b"rows_extracted" in metadata and found(metadata, canaries) == []
