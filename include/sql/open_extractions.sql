-- Reads only. Extractions of a table that are begun and not loaded: of a run that goes on, or left by a dead one.
with begun as (
    select
        extraction_id,
        run_id,
        started_at
    from _elt.extraction
    where source = %(source)s and table_name = %(table)s
)

select
    begun.run_id,
    begun.started_at,
    count(part.number) as ranges,
    count(part.rows_extracted) as ranges_staged,
    coalesce(sum(part.rows_extracted), 0) as rows_staged
from begun
left join _elt.extraction_range as part on begun.extraction_id = part.extraction_id
group by begun.extraction_id, begun.run_id, begun.started_at
order by begun.extraction_id
