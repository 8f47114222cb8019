"""A DAG of the same tasks and edges as `elt_pipeline`, none of which does anything: what Airflow itself takes."""

import json
from datetime import datetime
from pathlib import Path

from airflow.sdk import DAG, task


@task
def nothing() -> None:
    """Do nothing; an EmptyOperator would not even be started."""


with DAG(dag_id="same_shape", schedule=None, start_date=datetime(2024, 1, 1)):
    downstream = json.loads(Path(__file__).with_suffix(".json").read_text())
    tasks = {task_id: nothing.override(task_id=task_id)() for task_id in downstream}
    for task_id, others in downstream.items():
        tasks[task_id] >> [tasks[other] for other in others]
