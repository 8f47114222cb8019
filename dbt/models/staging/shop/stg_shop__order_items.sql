with source as (
    select * from {{ source("shop", "order_items") }}
),

renamed as (
    select
        -- ids
        cast(id as bigint) as order_item_id,
        cast(order_id as bigint) as order_id,
        cast(product_id as bigint) as product_id,

        -- numerics
        cast(quantity as integer) as quantity,
        cast(unit_price as numeric(10, 2)) as unit_price,

        -- booleans
        _deleted_at is not null as is_deleted,

        -- times
        cast(created_at as timestamptz) as order_item_created_at,
        cast(updated_at as timestamptz) as order_item_updated_at,
        _loaded_at as loaded_at,
        _deleted_at as deleted_at
    from source
)

select * from renamed
