-- Reads only. What was loaded of a table in 90 days, the oldest first: each load, or each UTC day where there are more.
with loads as (
    select
        load_id,
        loaded_at,
        loaded_at - started_at as took,
        rows_extracted,
        rows_deleted,
        count(*) over () <= %(most)s as is_each
    from _elt.load_ledger
    where source = %(source)s and table_name = %(table)s and loaded_at > now() - interval '90 days'
)

select
    min(loaded_at) as since,
    count(*) as loads,
    cast(sum(rows_extracted) as bigint) as rows_extracted,
    cast(sum(rows_deleted) as bigint) as rows_deleted,
    max(took) as took
from loads
group by
    date_trunc('day', loaded_at, 'utc'),
    case when is_each then load_id end
order by min(load_id)
