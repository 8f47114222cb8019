"""Airflow imports this module at start-up because the plugins folder is on its path.

A task runs in a process forked from the scheduler (LocalExecutor) or from a Celery worker. What these import once is
free in every task; without it each dbt task pays seconds for dbt's imports alone (docs/decisions.md).
"""

import sys

FORKING_COMMANDS = {"scheduler", "celery", "standalone"}

if FORKING_COMMANDS & set(sys.argv[1:2]):
    import include.rendering  # noqa: F401 isort: skip (sets up dbt before dbt is imported)

    import dbt.adapters.postgres  # noqa: F401
    import dbt.cli.main  # noqa: F401
    import dbt.task.run  # noqa: F401
    import dbt.task.snapshot  # noqa: F401
    import dbt.task.test  # noqa: F401
