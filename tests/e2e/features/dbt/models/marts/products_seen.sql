{{ config(materialized='materialized_view') }}
select count(*) as products from {{ ref('dim_products', v=1) }}
