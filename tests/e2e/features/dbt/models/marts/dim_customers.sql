{{ config(indexes=[{'columns': ['email']}], grants={'select': ['pg_monitor']}) }}
select id, name, lower(email) as email from {{ ref('stg_customers') }}
