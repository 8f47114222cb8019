with source as (
    select * from {{ source("shop", "orders") }}
),

renamed as (
    select
        -- ids
        cast(id as bigint) as order_id,
        cast(customer_id as bigint) as customer_id,

        -- strings
        cast(status as text) as order_status,

        -- numerics
        cast(amount as numeric(12, 2)) as order_amount,

        -- booleans
        _deleted_at is not null as is_deleted,

        -- times
        cast(created_at as timestamptz) as ordered_at,
        cast(updated_at as timestamptz) as order_updated_at,
        _loaded_at as loaded_at,
        _deleted_at as deleted_at
    from source
)

select * from renamed
