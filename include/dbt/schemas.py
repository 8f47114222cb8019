"""The schemas that loads and dbt write to. Neither role may make one: an administrator does (warehouse.sql)."""

from __future__ import annotations

import json
import re

from include.dbt.project import DEFAULT_SCHEMA, graph_path
from include.errors import ConfigError


def wanted() -> dict[str, list[str]]:
    """The project's schemas, by the setting in which warehouse.sql looks for them.

    Of a project that dbt cannot parse the standard ones: what is wrong with it the DAG says. Hooks may write to the
    profile's own schema, in which nothing need be built.
    """
    try:
        graph = json.loads(graph_path().read_text(encoding="utf-8"))
    except ConfigError:
        return {}
    raw = {node["asset"][0] for node in graph["sources"].values() if node["is_loaded"]}
    built = {*graph["schemas"], *([DEFAULT_SCHEMA] if graph["hooks"] else ())}
    return {
        "elt.raw_schemas": sorted(name for name in raw if re.fullmatch("raw_[^,]+", name)),
        "elt.dbt_schemas": sorted(name for name in built if not re.match("raw_|_elt$|pg_|.*,", name)),
    }


def as_options() -> str:
    """The same as libpq's `PGOPTIONS`."""
    given = (f"{setting}={','.join(names)}" for setting, names in wanted().items())
    return " ".join("-c" + re.sub(r"([\\\s])", r"\\\1", each) for each in given)


if __name__ == "__main__":
    print(as_options())
