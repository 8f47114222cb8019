"""Source entries as dbt hands them over, for tests of what is done with them: dbt itself takes seconds."""

from __future__ import annotations

from pathlib import Path

import yaml

from include.sources import TableSpec, tables_of


def specs_below(models: Path) -> list[TableSpec]:
    """The tables that the `sources:` of a folder's YAML files list.

    Raises:
        ValueError: one that cannot be loaded; carries its sentence.
    """
    entries = [
        {
            "unique_id": f"source.elt.{source['name']}.{table['name']}",
            "source_name": source["name"],
            "name": table["name"],
            "identifier": table.get("identifier", table["name"]),
            "schema": source["schema"],
            "file": str(path.relative_to(models.parent)),
            "extract": table["config"]["meta"]["extract"],
        }
        for path in sorted(models.rglob("*.yml"))
        for source in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("sources") or ()
        for table in source["tables"]
    ]
    tables = tables_of(entries)
    if tables.problems:
        raise ValueError("; ".join(problem.sentence for problem in tables.problems.values()))
    return list(tables.specs.values())
