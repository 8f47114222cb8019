"""Airflow imports this module at start-up because the plugins folder is on its path.

A task runs in a process forked from the scheduler (LocalExecutor) or from a Celery worker. What these have done once is
free in every task; without it each dbt task pays seconds for dbt's imports alone (docs/decisions.md).
"""

import logging
import os
import sys

# Which task a process was made for is not true of a command it starts: `airflow dags test` would run that task alone.
os.environ.pop("_AIRFLOW_PARSING_CONTEXT_TASK_ID", None)

FORKING_COMMANDS = {"scheduler", "celery", "standalone"}

if FORKING_COMMANDS & set(sys.argv[1:2]):
    import include.rendering  # isort: skip (sets up dbt before dbt is imported)

    import dbt.adapters.postgres  # noqa: F401
    import dbt.task.run  # noqa: F401
    import dbt.task.snapshot  # noqa: F401
    import dbt.task.test  # noqa: F401
    from airflow.sdk.lineage import get_hook_lineage_collector
    from airflow.sdk.listener import get_listener_manager

    get_listener_manager()
    get_hook_lineage_collector()
    try:
        include.dbt_tasks.warm_up()
    except Exception:  # a broken dbt project or a connection that only tasks see: they work, or say why not, themselves
        logging.getLogger(__name__).warning("dbt is not warmed up: its tasks start slower", exc_info=True)

if sys.argv[1:3] == ["dags", "test"]:
    from airflow.api_fastapi.execution_api.versions import bundle

    # The run answers the requests of its own tasks; routes for clients of all ten versions take 4 s of CPU to make.
    bundle.versions = bundle.versions[:3]
