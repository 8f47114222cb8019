with items as (
    select * from {{ ref("stg_shop__order_items") }}
),

orders as (
    select * from {{ ref("stg_shop__orders") }}
),

enriched as (
    select
        -- ids
        items.order_item_id,
        items.order_id,
        items.product_id,
        orders.customer_id,

        -- strings
        orders.order_status,

        -- numerics
        items.quantity,
        items.unit_price,
        items.quantity * items.unit_price as line_amount,

        -- booleans
        items.is_deleted or orders.is_deleted as is_deleted,

        -- times
        orders.ordered_at,
        cast(orders.ordered_at at time zone 'utc' as date) as order_date,
        items.loaded_at as order_item_loaded_at,
        orders.loaded_at as order_loaded_at
    from items
    inner join orders on items.order_id = orders.order_id
)

select * from enriched
