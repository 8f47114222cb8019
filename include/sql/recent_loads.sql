-- Reads only. The newest loads of a table, newest first. As JSON what a ledger that no run of this version has touched
-- may lack.
select
    ledger.run_id,
    ledger.mode,
    ledger.window_start,
    ledger.window_end,
    ledger.mark,
    ledger.rows_extracted,
    ledger.rows_inserted,
    ledger.rows_updated,
    ledger.rows_deleted,
    ledger.bytes_extracted,
    to_jsonb(ledger) ->> 'copy_format' as copy_format,
    ledger.loaded_at,
    ledger.loaded_at - ledger.started_at as took
from _elt.load_ledger as ledger
where ledger.source = %(source)s and ledger.table_name = %(table)s
order by ledger.load_id desc
limit %(count)s
