{{ config(alias='Products, dear ones') }}
select id, name, {{ function('doubled') }}(price) as price from {{ ref('large') }}
