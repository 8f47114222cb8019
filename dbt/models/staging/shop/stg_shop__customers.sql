with source as (
    select * from {{ source("shop", "customers") }}
),

renamed as (
    select
        -- ids
        cast(id as bigint) as customer_id,

        -- strings
        cast(name as text) as customer_name,
        cast(email as text) as email,

        -- booleans
        _deleted_at is not null as is_deleted,

        -- times
        cast(created_at as timestamptz) as customer_created_at,
        cast(updated_at as timestamptz) as customer_updated_at,
        _loaded_at as loaded_at,
        _deleted_at as deleted_at
    from source
)

select * from renamed
