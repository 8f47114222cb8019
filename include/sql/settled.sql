-- Reads only. Raw holds everything below this cursor, by the newest load that read up to its horizon; or no row.
select least(mark, horizon) as settled
from _elt.load_ledger
where source = %(source)s and table_name = %(table)s and (mark is not null or mode = 'full')
order by load_id desc
limit 1
