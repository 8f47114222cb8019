-- Reads only. Which server the newest load of a table saw, or no row. As JSON what a ledger that no run of this version
-- has touched lacks.
select
    nullif(to_jsonb(ledger) -> 'source_server', 'null') as source_server,
    cast(to_jsonb(ledger) ->> 'is_of_one_server' as boolean) as is_of_one_server
from _elt.load_ledger as ledger
where ledger.source = %(source)s and ledger.table_name = %(table)s
order by ledger.load_id desc
limit 1
