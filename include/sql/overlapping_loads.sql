-- Reads only. Loads of this table that were published since this extraction began.
select
    run_id,
    extraction_id,
    mode,
    window_start,
    snapshot_xmax,
    snapshot_running,
    coalesce(oldest_xmax, snapshot_xmax) as oldest_xmax,
    coalesce(oldest_running, snapshot_running) as oldest_running,
    started_at,
    staged_at,
    loaded_at,
    source_server
from _elt.load_ledger
where source = %(source)s and table_name = %(table)s and load_id > %(after_load_id)s
