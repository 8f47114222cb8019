{{ config(materialized='incremental', unique_key='region', full_refresh=false, group='finance') }}
select regions.region, sum(payments.amount) as amount
from {{ ref('payments') }} as payments
inner join {{ ref('regions') }} as regions on regions.kind = payments.kind
{% if is_incremental() %}where payments.amount > 0{% endif %}
group by regions.region
