"""Parse `elt_pipeline` as a process of Airflow does, in the tree that is the working directory.

python -m benchmarks.parse imports      time the imports, which a process makes once
python -m benchmarks.parse dag          time the whole graph, as the DAG processor reads it, after the imports
python -m benchmarks.parse task         time what the start of one task reads of it, after the imports
python -m benchmarks.parse shape FILE   write every task and those that follow it
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter

from benchmarks.measure import TIMED

DAG_ID, DAG_FILE = "elt_pipeline", Path("dags/elt_pipeline.py")
TASK_ID = "marts.dim_things_0.run"


def main(mode: str, *arguments: str) -> None:
    """Do one of these."""
    start = perf_counter()
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk.definitions._internal.dag_parsing_context import _airflow_parsing_context_manager

    import include.orchestrate.rendering  # noqa: F401 isort: skip

    imported = perf_counter()
    if mode == "imports":
        print(f"{TIMED}{imported - start}")
        return
    with _airflow_parsing_context_manager(DAG_ID, TASK_ID if mode == "task" else None):
        bag = DagBag(DAG_FILE, safe_mode=False)
    print(f"{TIMED}{perf_counter() - imported}")
    if bag.import_errors:
        sys.exit("\n".join(bag.import_errors.values()))
    tasks = bag.dags[DAG_ID].task_dict
    assert TASK_ID in tasks
    if mode == "shape":
        shape = {task_id: sorted(task.downstream_task_ids) for task_id, task in tasks.items()}
        Path(*arguments).write_text(json.dumps(shape))


if __name__ == "__main__":
    main(*sys.argv[1:])
