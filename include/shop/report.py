"""Reports over the marts, made with pandas: small frames for people, never the data path."""

from __future__ import annotations

import pandas as pd

from include.postgres.sessions import Connection

SALES_BY_MONTH = """
    select date_trunc('month', sales.date_key)::date as month, products.category, sum(sales.line_amount) as revenue
    from marts.fct_sales as sales
    join marts.dim_products as products using (product_key)
    where sales.order_status not in ('cancelled', 'returned')
        and sales.date_key >= date_trunc('month', current_date) - interval '5 months'
    group by 1, 2
"""
"""Revenue of kept orders, this month and the five before. One row per month and category."""


def read_sales(warehouse: Connection) -> pd.DataFrame:
    """The rows of `SALES_BY_MONTH`, as `monthly_sales` takes them."""
    found = warehouse.execute(SALES_BY_MONTH)
    return pd.DataFrame(found.fetchall(), columns=[column.name for column in found.description or ()])


def monthly_sales(sales: pd.DataFrame) -> pd.DataFrame:
    """Revenue with a row per category, a column per month, and totals.

    Args:
        sales: Columns `month` (date), `category` (str) and `revenue` (number, in the shop's currency).

    Returns:
        Categories by falling total, then `Total`; months in order, then `Total`. Rounded to whole units. Empty
        where `sales` is.
    """
    if sales.empty:
        return pd.DataFrame()
    months = pd.to_datetime(sales["month"]).dt.strftime("%Y-%m")
    table = sales.assign(month=months, revenue=sales["revenue"].astype(float)).pivot_table(
        index="category", columns="month", values="revenue", aggfunc="sum", fill_value=0.0
    )
    table["Total"] = table.sum(axis="columns")
    table = table.sort_values("Total", ascending=False)
    table.loc["Total"] = table.sum()
    return table.round().astype("int64")
