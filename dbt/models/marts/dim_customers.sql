{{ config(indexes=[{"columns": ["customer_id"]}, {"columns": ["loaded_at"]}]) }}

with versions as (
    select
        *,
        lag(customer_updated_at) over (partition by customer_id order by loaded_at) as previous_updated_at
    from {{ ref("customers_snapshot") }}
),

-- A version starts when the shop says it changed, if that clock moved forward; else (restored row, clock set
-- back, delete) when it was loaded. The running maximum keeps versions in order of loading: none can overlap.
dated as (
    select
        *,
        max(
            case
                when customer_updated_at <= previous_updated_at then loaded_at
                else customer_updated_at
            end
        ) over (partition by customer_id order by loaded_at) as valid_from
    from versions
),

followed as (
    select
        *,
        lead(valid_from) over (partition by customer_id order by loaded_at) as next_valid_from
    from dated
),

final as (
    select
        -- ids
        cast(dbt_scd_id as uuid) as customer_key,
        customer_id,

        -- strings
        customer_name,
        email,

        -- booleans
        next_valid_from is null and dbt_valid_to is null as is_current,
        is_deleted,

        -- times
        customer_created_at,
        valid_from,
        case
            when next_valid_from is not null then next_valid_from
            when dbt_valid_to is not null then greatest(valid_from, cast(dbt_valid_to as timestamptz))
        end as valid_to,
        loaded_at
    from followed
)

select * from final
