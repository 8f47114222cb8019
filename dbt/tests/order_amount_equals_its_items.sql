-- Live orders whose amount is not the sum of their live items, to the cent. Tables are read one after
-- another, so orders that changed within settling_time of the newest item are left for the next run.
with items as (
    select
        order_id,
        sum(quantity * unit_price) as items_amount
    from {{ ref("stg_shop__order_items") }}
    where not is_deleted
    group by order_id
),

settled as (
    select max(order_item_updated_at) - interval {{ literal(var("settling_time")) }} as settled_at
    from {{ ref("stg_shop__order_items") }}
)

select
    orders.order_id,
    orders.order_amount,
    items.items_amount
from {{ ref("stg_shop__orders") }} as orders
cross join settled
left join items on orders.order_id = items.order_id
where
    not orders.is_deleted
    and orders.order_updated_at < settled.settled_at
    and orders.order_amount is distinct from coalesce(items.items_amount, 0)
