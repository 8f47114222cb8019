-- Reads only. Who else holds or awaits a lock on one of some tables, or the lock of a name (ledger.lock). Of tables
-- that are only read (is_read), who keeps readers out; else everybody.
with asked as (
    select
        cast(%(name)s as text) as name,
        cast(%(is_read)s as boolean) as is_read,
        hashtextextended(concat('elt:', cast(%(name)s as text)), 0) as lock_key,
        array(
            select cast(to_regclass(wanted.name) as oid)
            from unnest(cast(%(relations)s as text[])) as wanted (name)
        ) as relations
)

select
    case
        when locks.pid is null then 'a prepared transaction'
        else concat_ws(
            ', ',
            concat('pid ', locks.pid),
            nullif(concat(activity.usename, ' ', quote_nullable(nullif(activity.application_name, ''))), ' '),
            activity.state,
            concat('since ', to_char(coalesce(activity.xact_start, activity.state_change), 'YYYY-MM-DD HH24:MI:SSOF'))
        )
    end as who,
    case when locks.granted then 'holds' else 'waits for' end as does,
    locks.mode,
    case locks.locktype
        when 'advisory' then concat('the lock of ', asked.name)
        else cast(cast(locks.relation as regclass) as text)
    end as what
from pg_locks as locks
cross join asked
left join pg_stat_activity as activity on locks.pid = activity.pid
where
    locks.pid is distinct from pg_backend_pid()
    and locks.database = (
        select pg_database.oid
        from pg_database
        where pg_database.datname = current_database()
    )
    and (
        (
            locks.locktype = 'relation'
            and (not asked.is_read or locks.mode = 'AccessExclusiveLock')
            and locks.relation = any(asked.relations)
        )
        or (
            locks.locktype = 'advisory'
            and locks.objsubid = 1
            and (cast(locks.classid as bigint) << 32) | cast(locks.objid as bigint) = asked.lock_key
        )
    )
order by locks.mode = 'AccessExclusiveLock' desc, not locks.granted, locks.pid
limit 5
