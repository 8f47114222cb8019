{{
    config(
        materialized="incremental",
        unique_key="order_item_id",
        incremental_strategy="delete+insert",
        on_schema_change="fail",
        indexes=[
            {"columns": ["order_id"]},
            {"columns": ["customer_key"]},
            {"columns": ["product_key"]},
            {"columns": ["date_key"]},
            {"columns": ["order_item_loaded_at"]},
            {"columns": ["order_loaded_at"]},
            {"columns": ["customer_loaded_at"]},
            {"columns": ["is_deleted"]},
        ],
        post_hook="delete from {{ this }} where is_deleted",
    )
}}

-- dbt finds references in the incremental branch only through hints:
-- depends_on: {{ ref("stg_shop__order_items") }}
-- depends_on: {{ ref("stg_shop__orders") }}

-- A line follows from its item, its order and its customer's versions, and from nothing else. Where one of
-- these changed it is computed anew; so are deleted lines, marked, and the post-hook takes them out.
with customer_versions as (
    select
        customer_key,
        customer_id,
        -- Orders older than the first known version belong to it; valid_to is not asked: none falls in a gap.
        case when row_number() over history = 1 then '-infinity' else valid_from end as applies_from,
        coalesce(lead(valid_from) over history, 'infinity') as applies_to,
        max(loaded_at) over (partition by customer_id) as customer_loaded_at
    from {{ ref("dim_customers") }}
    window history as (partition by customer_id order by valid_from, loaded_at)
),

{% if is_incremental() %}

-- One mark per table, as loads of different tables commit in any order. Within a table loaded_at rises with
-- every commit, so what lies above the mark is what has come since. When the line that held it is deleted, it
-- falls back and the last load is computed once more: work, never an error.
marks as (
    select
        coalesce(max(order_item_loaded_at), '-infinity') as order_item_mark,
        coalesce(max(order_loaded_at), '-infinity') as order_mark,
        coalesce(max(customer_loaded_at), '-infinity') as customer_mark
    from {{ this }}
),

changed as (
    select order_item_id
    from {{ ref("int_orders_enriched") }}
    where order_item_loaded_at > (select marks.order_item_mark from marks)
    union
    select order_item_id
    from {{ ref("int_orders_enriched") }}
    where order_loaded_at > (select marks.order_mark from marks)
    union
    select enriched.order_item_id
    from {{ ref("dim_customers") }} as customers
    inner join {{ ref("int_orders_enriched") }} as enriched on customers.customer_id = enriched.customer_id
    where customers.loaded_at > (select marks.customer_mark from marks)
),

-- A full reload keeps no deleted rows in the raw table. It shows in that no row is as old as the mark.
reloaded as (
    select 1 as is_true
    where
        not exists (
            select 1 from {{ ref("stg_shop__order_items") }}
            where loaded_at <= (select marks.order_item_mark from marks)
        )
        or not exists (
            select 1 from {{ ref("stg_shop__orders") }}
            where loaded_at <= (select marks.order_mark from marks)
        )
),

vanished as (
    select sales.*
    from {{ this }} as sales
    left join {{ ref("int_orders_enriched") }} as enriched on sales.order_item_id = enriched.order_item_id
    where exists (select 1 from reloaded) and enriched.order_item_id is null
),

{% endif %}

sales as (
    select
        -- ids
        enriched.order_item_id,
        enriched.order_id,
        versions.customer_key,
        enriched.product_id as product_key,
        enriched.order_date as date_key,

        -- strings
        enriched.order_status,

        -- numerics
        enriched.quantity,
        enriched.unit_price,
        enriched.line_amount,

        -- booleans
        enriched.is_deleted,

        -- times
        enriched.ordered_at,
        enriched.order_item_loaded_at,
        enriched.order_loaded_at,
        versions.customer_loaded_at
    from {{ ref("int_orders_enriched") }} as enriched
    left join customer_versions as versions
        on
            enriched.customer_id = versions.customer_id
            and enriched.ordered_at >= versions.applies_from
            and enriched.ordered_at < versions.applies_to
    {% if is_incremental() %}
    where enriched.order_item_id in (select changed.order_item_id from changed)
    {% else %}
    where not enriched.is_deleted
    {% endif %}
)

select * from sales
{% if is_incremental() %}
union all
select
    order_item_id,
    order_id,
    customer_key,
    product_key,
    date_key,
    order_status,
    quantity,
    unit_price,
    line_amount,
    true as is_deleted,
    ordered_at,
    order_item_loaded_at,
    order_loaded_at,
    customer_loaded_at
from vanished
{% endif %}
