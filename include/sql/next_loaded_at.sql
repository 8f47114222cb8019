-- Reads only. Its caller holds the table's lock: strictly increasing in commit order, even where the clock steps back.
select
    greatest(
        clock_timestamp(),
        max(loaded_at) + interval '1 microsecond'
    ) as loaded_at
from _elt.load_ledger
where source = %(source)s and table_name = %(table)s
