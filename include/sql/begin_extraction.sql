-- Rerunnable: every attempt draws a number of its own.
insert into _elt.extraction (source, table_name, run_id, source_shape, after_load_id)
select
    %(source)s,
    %(table)s,
    %(run_id)s,
    %(shape)s::jsonb,
    coalesce(max(ledger.load_id), 0) as after_load_id
from _elt.load_ledger as ledger
where ledger.source = %(source)s and ledger.table_name = %(table)s
returning extraction_id, after_load_id, started_at
