-- Reads only. The newest load that moved the watermark, or no row.
select
    mark,
    horizon,
    watermark_before,
    watermark_published_at is not null as is_published
from _elt.load_ledger
where source = %(source)s and table_name = %(table)s and mark is not null
order by load_id desc
limit 1
