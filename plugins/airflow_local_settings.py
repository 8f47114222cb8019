"""Airflow imports this module at start-up because the plugins folder is on its path.

A task runs in a process forked from the scheduler (LocalExecutor) or from a Celery worker. What these have done once is
free in every task; without it each dbt task pays seconds for dbt's imports alone (docs/decisions.md).
"""

import atexit
import gc
import logging
import os
import sys

# Which task a process was made for is not true of a command it starts: `airflow dags test` would run that task alone.
os.environ.pop("_AIRFLOW_PARSING_CONTEXT_TASK_ID", None)

# Nearly all that such a process makes stays until its end: looking for cycles after each 700 objects, and three times
# among all of them at exit, is a fifth of a run's time, and has the first task wait while the API server starts.
gc.set_threshold(50_000)
atexit.register(gc.freeze)

FORKING_COMMANDS = {"scheduler", "celery", "standalone"}

if FORKING_COMMANDS & set(sys.argv[1:2]):
    import dbt.adapters.postgres  # noqa: F401
    import dbt.task.run  # noqa: F401
    import dbt.task.snapshot  # noqa: F401
    import dbt.task.test  # noqa: F401
    from airflow.sdk.lineage import get_hook_lineage_collector
    from airflow.sdk.listener import get_listener_manager

    import include.orchestrate.alerts
    import include.orchestrate.rendering

    get_listener_manager()
    get_hook_lineage_collector()
    include.patches.airflow.see_a_task_end()
    try:
        include.orchestrate.dbt_tasks.warm_up()
    except Exception:  # a broken dbt project or a connection that only tasks see: they work, or say why not, themselves
        logging.getLogger(__name__).warning("dbt is not warmed up: its tasks start slower", exc_info=True)

if sys.argv[1:3] == ["dags", "test"]:
    from include.patches.airflow import run_without_deadline, serve_newest_version

    gc.set_threshold(200_000)  # it ends before there is much to collect: 5 % of its time
    serve_newest_version()
    run_without_deadline()
