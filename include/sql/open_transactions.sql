-- Reads only. Transactions of this database that hold its horizon back, the oldest first: of sessions, also those that
-- do not show their start, and prepared ones. The sessions are those of horizon.sql.
with sessions as (
    select
        activity.pid,
        activity.usename,
        activity.application_name,
        activity.state,
        least(
            activity.xact_start,
            case when activity.state in ('active', 'fastpath function call') then activity.query_start end
        ) as began_at,
        activity.xact_start is null
        and activity.state not in ('idle', 'disabled')
        and exists (
            select 1
            from pg_locks
            where pg_locks.pid = activity.pid and pg_locks.locktype = 'virtualxid' and pg_locks.mode = 'ExclusiveLock'
        ) as is_undated
    from pg_stat_activity as activity
    where
        activity.datname = current_database()
        and activity.pid <> pg_backend_pid()
        and activity.backend_type not in ('autovacuum worker', 'parallel worker')
        and not exists (
            select 1
            from pg_stat_replication
            where pg_stat_replication.pid = activity.pid and pg_stat_replication.state <> 'startup'
        )
),

found as (
    select
        case when not is_undated then began_at end as since,
        usename as role,
        application_name,
        state,
        concat('pid ', pid) as holder,
        concat('select pg_terminate_backend(', pid, ')') as ending
    from sessions
    where began_at < statement_timestamp() or is_undated
    union all
    select
        prepared as since,
        owner as role,
        null as application_name,
        'prepared, waits for commit prepared or rollback prepared' as state,
        concat('prepared transaction ', quote_literal(gid)) as holder,
        concat('commit prepared ', quote_literal(gid), ' or rollback prepared ', quote_literal(gid)) as ending
    from pg_prepared_xacts
    where database = current_database()
)

select
    holder,
    ending,
    role,
    application_name,
    state,
    since
from found
order by since nulls first
limit 5
