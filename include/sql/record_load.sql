-- Rerunnable: unique by extraction; a second attempt finds the row and changes nothing.
with begun as (
    select
        source_shape,
        rewound_at
    from _elt.extraction
    where extraction_id = %(extraction_id)s
    -- A rewind comes before this row or after its commit.
    for update
)

insert into _elt.load_ledger (
    extraction_id, source, table_name, run_id, mode, window_start, window_end, horizon, mark, watermark_before,
    snapshot_xmax, snapshot_running, oldest_xmax, oldest_running, rows_extracted, bytes_extracted,
    rows_inserted, rows_updated, rows_deleted, started_at, staged_at, loaded_at, copy_format,
    source_server, is_of_one_server, source_shape, watermark_published_at
)
values (
    %(extraction_id)s, %(source)s, %(table)s, %(run_id)s, %(mode)s, %(window_start)s, %(window_end)s, %(horizon)s,
    %(mark)s, %(watermark_before)s, %(snapshot_xmax)s, %(snapshot_running)s, %(oldest_xmax)s, %(oldest_running)s,
    %(rows_extracted)s, %(bytes_extracted)s,
    %(rows_inserted)s, %(rows_updated)s, %(rows_deleted)s, %(started_at)s, %(staged_at)s,
    %(loaded_at)s,
    %(copy_format)s,
    %(source_server)s,
    %(is_of_one_server)s,
    (select source_shape from begun),
    (select rewound_at from begun)
)
