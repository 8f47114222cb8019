-- Reads only. Strictly increasing per table in commit order, even where the clock steps back: its caller holds the lock.
select
    greatest(
        clock_timestamp(),
        max(loaded_at) + interval '1 microsecond'
    ) as loaded_at
from _elt.load_ledger
where source = %(source)s and table_name = %(table)s
