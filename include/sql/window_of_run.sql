-- Reads only. Where the earliest window of a run and of all later loads began, null: at the beginning; or no row.
with loads as (
    select
        window_start,
        bool_or(run_id = %(run_id)s) over (order by load_id) as is_since
    from _elt.load_ledger
    where source = %(source)s and table_name = %(table)s and mode <> 'repair'
)

select window_start
from loads
where is_since
order by window_start nulls first
limit 1
