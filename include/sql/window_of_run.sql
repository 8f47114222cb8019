-- Reads only. Where the window of a run began, null: at the beginning; or no row.
select window_start
from _elt.load_ledger
where source = %(source)s and table_name = %(table)s and run_id = %(run_id)s and mode <> 'repair'
order by window_start nulls first
limit 1
