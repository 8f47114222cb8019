-- Rerunnable: every attempt draws a number of its own.
with owner as (
    select hashtextextended(concat('elt:run ', cast(%(run_id)s as text)), 0) as lock_key
)

insert into _elt.extraction (source, table_name, run_id, source_shape, after_load_id, has_owner)
select
    %(source)s,
    %(table)s,
    %(run_id)s,
    %(shape)s::jsonb,
    coalesce(max(ledger.load_id), 0) as after_load_id,
    exists(
        select 1
        from pg_locks as locks
        cross join owner
        where
            locks.locktype = 'advisory'
            and locks.mode = 'ShareLock'
            and locks.granted
            and locks.objsubid = 1
            and (cast(locks.classid as bigint) << 32) | cast(locks.objid as bigint)
            = owner.lock_key
    ) as has_owner
from _elt.load_ledger as ledger
where ledger.source = %(source)s and ledger.table_name = %(table)s
returning extraction_id, after_load_id, started_at
