"""dbt packages: installed by `make setup` and when the image is built, where their lists changed; never by a task."""

from __future__ import annotations

import shutil
import sys

from include.dbt.project import installed_packages, listed_packages, packages_stamp, run_dbt
from include.errors import ConfigError
from include.files import write_whole


def install() -> None:
    """Install the packages that the lists name, where these changed; dbt then writes package-lock.yml, for git to keep.

    A project without lists has none: dbt takes whatever lies in the folder for a package.

    Raises:
        ConfigError: dbt cannot install one; carries dbt's own message.
    """
    if installed_packages() == listed_packages():
        return
    folder = packages_stamp().parent
    shutil.rmtree(folder, ignore_errors=True)
    if listed_packages():
        run_dbt("deps", "install the packages of the project")
        folder.mkdir(exist_ok=True)
        write_whole(packages_stamp(), listed_packages(), is_private=False)


if __name__ == "__main__":
    try:
        install()
    except ConfigError as error:
        sys.exit(f"error: {error}")
