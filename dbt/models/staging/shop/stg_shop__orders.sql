with source as (
    select * from {{ source("shop", "orders") }}
),

renamed as (
    select
        -- ids
        id as order_id,
        customer_id,

        -- strings
        status as order_status,

        -- numerics
        amount as order_amount,

        -- booleans
        _deleted_at is not null as is_deleted,

        -- times
        created_at as ordered_at,
        updated_at as order_updated_at,
        _loaded_at as loaded_at,
        _deleted_at as deleted_at
    from source
)

select * from renamed
