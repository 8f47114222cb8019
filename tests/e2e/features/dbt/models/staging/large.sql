{{ config(materialized='ephemeral') }}
select * from {{ ref('stg_products') }} where price >= {{ var('smallest') }}
