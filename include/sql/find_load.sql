-- Reads only. The load of one extraction, or no row.
select
    source,
    table_name,
    mode,
    mark,
    rows_extracted,
    rows_inserted,
    rows_updated,
    rows_deleted,
    loaded_at
from _elt.load_ledger
where
    extraction_id = %(extraction_id)s
    and source = %(source)s
    and table_name = %(table)s
    and run_id = %(run_id)s
