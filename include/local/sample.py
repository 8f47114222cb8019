"""The sample source that `make run` makes beside the warehouse, as long as `make yours` has not removed it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """A source database of the local server.

    Attributes:
        name: Of the database, and of the connection to it.
        owner: The role of its application.
        reader: The role that the pipeline reads it with.
        grants: What makes roles and rights.
        advance: The module whose `advance` makes its rows, or changes some.
    """

    name: str
    owner: str
    reader: str
    grants: Path
    advance: str

    @property
    def variable(self) -> str:
        """What names a database of the user's own instead."""
        return f"AIRFLOW_CONN_{self.name.upper()}"


SAMPLE: Sample | None = None
# sample shop: begins
SAMPLE = Sample(
    "shop", "shop_app", "shop_reader", Path(__file__).parent.parent / "shop" / "roles.sql", "include.shop.advance"
)
# sample shop: ends
