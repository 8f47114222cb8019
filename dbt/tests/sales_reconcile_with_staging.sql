-- Days on which fct_sales and the staged shop disagree in lines, pieces or money, past the models in between.
with shop as (
    select
        cast(orders.ordered_at at time zone 'utc' as date) as date_key,
        count(*) as line_count,
        sum(items.quantity) as quantity,
        sum(items.quantity * items.unit_price) as amount
    from {{ ref("stg_shop__order_items") }} as items
    inner join {{ ref("stg_shop__orders") }} as orders on items.order_id = orders.order_id
    where not items.is_deleted and not orders.is_deleted
    group by date_key
),

sales as (
    select
        date_key,
        count(*) as line_count,
        sum(quantity) as quantity,
        sum(line_amount) as amount
    from {{ ref("fct_sales") }}
    group by date_key
)

select
    coalesce(shop.date_key, sales.date_key) as date_key,
    shop.line_count as shop_line_count,
    sales.line_count as sales_line_count,
    shop.amount as shop_amount,
    sales.amount as sales_amount
from shop
full outer join sales on shop.date_key = sales.date_key
where
    (shop.line_count, shop.quantity, shop.amount)
    is distinct from (sales.line_count, sales.quantity, sales.amount)
