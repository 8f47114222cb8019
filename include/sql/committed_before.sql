-- Reads only. Of each run and source: the instant before which everything committed was loaded by the end of that run;
-- no row where one of its loads read a window alone.
select
    run_id,
    source,
    min(least(mark, horizon)) as committed_before
from _elt.load_ledger
where run_id = any(%(run_ids)s) and mode <> 'repair'
group by run_id, source
having bool_and(mark is not null or mode = 'full')
