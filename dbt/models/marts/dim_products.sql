with products as (
    select * from {{ ref("stg_shop__products") }}
)

select
    -- ids
    product_id as product_key,

    -- strings
    product_name,
    category,

    -- numerics
    list_price,

    -- booleans
    is_deleted,

    -- times
    product_created_at,
    product_updated_at
from products
