with source as (
    select * from {{ source("shop", "order_items") }}
),

renamed as (
    select
        -- ids
        id as order_item_id,
        order_id,
        product_id,

        -- numerics
        quantity,
        unit_price,

        -- booleans
        _deleted_at is not null as is_deleted,

        -- times
        created_at as order_item_created_at,
        updated_at as order_item_updated_at,
        _loaded_at as loaded_at,
        _deleted_at as deleted_at
    from source
)

select * from renamed
