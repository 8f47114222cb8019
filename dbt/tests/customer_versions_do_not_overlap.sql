-- Versions of one customer that overlap, or more than one current version.
with followed as (
    select
        customer_id,
        valid_from,
        valid_to,
        is_current,
        lead(valid_from) over (partition by customer_id order by valid_from, loaded_at) as next_valid_from
    from {{ ref("dim_customers") }}
)

select *
from followed
where
    valid_to < valid_from
    or (next_valid_from is not null and (is_current or valid_to is null or valid_to > next_valid_from))
