-- Reads only. Slices of the cursor below the watermark that no load in the ledger has read; null: unbounded.
with loads as (
    select
        mark,
        window_start,
        coalesce(mark, least(window_end, horizon)) as read_up_to
    from _elt.load_ledger
    where source = %(source)s and table_name = %(table)s and (mark is not null or mode = 'window')
),

uncovered as (
    select tstzmultirange(tstzrange(null, max(mark))) - range_agg(tstzrange(window_start, read_up_to)) as slices
    from loads
    where window_start is null or window_start < read_up_to
    having max(mark) is not null
)

select
    lower(gap.slice) as lower,
    upper(gap.slice) as upper
from uncovered
cross join unnest(uncovered.slices) as gap (slice)
order by lower(gap.slice) nulls first
