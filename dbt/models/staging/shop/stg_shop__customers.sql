with source as (
    select * from {{ source("shop", "customers") }}
),

renamed as (
    select
        -- ids
        id as customer_id,

        -- strings
        name as customer_name,
        email,

        -- booleans
        _deleted_at is not null as is_deleted,

        -- times
        created_at as customer_created_at,
        updated_at as customer_updated_at,
        _loaded_at as loaded_at,
        _deleted_at as deleted_at
    from source
)

select * from renamed
