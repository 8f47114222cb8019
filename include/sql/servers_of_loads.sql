-- Reads only. Which server each load of a table saw, oldest first; null: a load of an earlier version.
select
    source_server,
    loaded_at
from _elt.load_ledger
where source = %(source)s and table_name = %(table)s
order by load_id
