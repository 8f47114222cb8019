"""An Airflow of the tests' own, in this process."""

from __future__ import annotations

import os
from pathlib import Path

from include.local.environment import Installation, airflow_settings


def use(folder: Path) -> None:
    """Before any import of Airflow, which reads its configuration once: nothing of the person's own installation."""
    here = Installation(folder)
    os.environ |= airflow_settings(here, api_port=8080)
    os.environ["AIRFLOW_HOME"] = str(here.airflow_home)
    os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{here.airflow_home}/airflow.db"
