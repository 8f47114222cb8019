with source as (
    select * from {{ source("shop", "products") }}
),

renamed as (
    select
        -- ids
        cast(id as bigint) as product_id,

        -- strings
        cast(name as text) as product_name,
        cast(category as text) as category,

        -- numerics
        cast(price as numeric(10, 2)) as list_price,

        -- booleans
        _deleted_at is not null as is_deleted,

        -- times
        cast(created_at as timestamptz) as product_created_at,
        cast(updated_at as timestamptz) as product_updated_at,
        _loaded_at as loaded_at,
        _deleted_at as deleted_at
    from source
)

select * from renamed
