"""Each raw table, model, snapshot and seed as an Airflow Asset: what any DAG can wait for."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any
from urllib.parse import quote

from airflow.sdk import Asset, Context

from include.sources import TableSpec


def warehouse_asset(schema: str, table: str) -> Asset:
    """The asset of a relation of the warehouse, such as `marts.fct_orders`.

    Its URI names the connection where a host and a database would be: those differ between installations.
    """
    return Asset(name=f"{schema}.{table}", uri=_uri("warehouse", schema, table))


def source_asset(spec: TableSpec) -> Asset:
    """A table of a source, of which no task makes anything: what OpenLineage calls an input."""
    return Asset(name=spec.name, uri=_uri(spec.source, spec.schema_name, spec.identifier))


def _uri(connection: str, schema: str, table: str) -> str:
    return f"postgres://{connection}:5432/{connection}/{quote(schema, safe='')}/{quote(table, safe='')}"


def tell_read(context: Context, assets: Iterable[Asset]) -> None:
    """Give the task that runs its inputs in OpenLineage, where Airflow has that provider.

    Args:
        context: Of the task.
        assets: What it read, made as they are asked for: a process's first asset takes 60 ms.
    """
    if find_spec("airflow.providers.openlineage"):
        context["ti"].task.inlets = list(assets)


def tell_updated(context: Context, asset: Asset, extra: dict[str, Any] | None) -> None:
    """Have the task that runs update its asset when it succeeds.

    Args:
        context: Of the task.
        asset: What the task makes. The process of one task need not have it among its outlets: Airflow would ask its
            server about it before the task may run.
        extra: What to keep with the event; None where nothing changed, and there is none.
    """
    context["ti"].task.outlets = [] if extra is None else [asset]
    if extra is not None:
        context["outlet_events"][asset].extra.update(extra)
