-- Reads only. Has to be the first statement of its own transaction: statement_timestamp() is then taken before the
-- sessions are looked at, so a transaction that begins in between starts after the horizon.
with sessions as (
    select
        activity.pid,
        activity.usename,
        activity.application_name,
        activity.state,
        activity.xact_start,
        -- Whatever a statement commits on its way (a procedure, a DO block, a message of several transactions), it may
        -- stamp with when it came; xact_start moves on, and is null in between. As in open_transactions.sql.
        least(
            activity.xact_start,
            case when activity.state in ('active', 'fastpath function call') then activity.query_start end
        ) as began_at
    from pg_stat_activity as activity
    where
        activity.datname = current_database()
        and activity.pid <> pg_backend_pid()
        -- A parallel worker is in its leader's transaction.
        and activity.backend_type not in ('autovacuum worker', 'parallel worker')
        -- A replication session takes SQL until it replicates, and before that is `startup`.
        and not exists (
            select 1
            from pg_stat_replication
            where pg_stat_replication.pid = activity.pid and pg_stat_replication.state <> 'startup'
        )
),

oldest as (
    select
        min(began_at) as began_at,
        (array_agg(pid order by began_at))[1] as pid,
        (array_agg(usename order by began_at))[1] as usename,
        (array_agg(application_name order by began_at))[1] as application_name
    from sessions
    where began_at is not null
),

-- With track_activities off, a session shows no transaction.
hidden as (
    select
        pid,
        quote_ident(usename) as role_name
    from sessions
    where state = 'disabled'
    order by pid
    limit 1
),

-- In a transaction, by the lock that each holds on itself, whose start is not shown: of a replication session, or begun
-- before track_activities was turned on.
undated as (
    select
        pid,
        usename,
        application_name
    from sessions
    where
        xact_start is null
        and state not in ('idle', 'disabled')
        and exists (
            select 1
            from pg_locks
            where pg_locks.pid = sessions.pid and pg_locks.locktype = 'virtualxid' and pg_locks.mode = 'ExclusiveLock'
        )
    order by pid
    limit 1
)

select
    statement_timestamp() as read_at,
    least(statement_timestamp(), oldest.began_at) as at,
    pg_is_in_recovery() as in_recovery,
    pg_has_role(current_user, 'pg_read_all_stats', 'usage') as sees_all_sessions,
    exists(
        select 1
        from pg_prepared_xacts
        where pg_prepared_xacts.database = current_database()
    ) as has_prepared,
    oldest.pid,
    oldest.usename,
    oldest.application_name,
    hidden.pid as hidden_pid,
    hidden.role_name as hidden_role,
    undated.pid as undated_pid,
    undated.usename as undated_role,
    undated.application_name as undated_application
from oldest
left join hidden on true
left join undated on true
