with source as (
    select * from {{ source("shop", "products") }}
),

renamed as (
    select
        -- ids
        id as product_id,

        -- strings
        name as product_name,
        category,

        -- numerics
        price as list_price,

        -- booleans
        _deleted_at is not null as is_deleted,

        -- times
        created_at as product_created_at,
        updated_at as product_updated_at,
        _loaded_at as loaded_at,
        _deleted_at as deleted_at
    from source
)

select * from renamed
