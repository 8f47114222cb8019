"""The sales report's layout."""

from datetime import date
from decimal import Decimal

import pandas as pd

from include.shop.report import monthly_sales


def test_categories_by_falling_total_with_totals() -> None:
    sales = pd.DataFrame(
        {
            "month": [date(2026, 1, 1), date(2026, 2, 1), date(2026, 2, 1)],
            "category": ["books", "books", "toys"],
            "revenue": [Decimal("10.40"), Decimal("5.20"), Decimal("100.00")],
        }
    )
    table = monthly_sales(sales)
    assert list(table.index) == ["toys", "books", "Total"]
    assert table.loc["books"].to_dict() == {"2026-01": 10, "2026-02": 5, "Total": 16}
    assert table.loc["Total"].to_dict() == {"2026-01": 10, "2026-02": 105, "Total": 116}


def test_an_empty_warehouse_gives_an_empty_report() -> None:
    assert monthly_sales(pd.DataFrame({"month": [], "category": [], "revenue": []})).empty
