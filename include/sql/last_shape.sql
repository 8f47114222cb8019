-- Reads only. No row: no load has noted the shape of its source table yet. As JSON, because a ledger that no run of
-- this version has touched lacks the column.
select to_jsonb(ledger) -> 'source_shape' as source_shape
from _elt.load_ledger as ledger
where
    ledger.source = %(source)s
    and ledger.table_name = %(table)s
    and jsonb_typeof(to_jsonb(ledger) -> 'source_shape') = 'object'
order by ledger.load_id desc
limit 1
