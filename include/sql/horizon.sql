-- Reads only. Has to be the first statement of its own transaction: statement_timestamp() is then taken before the
-- sessions are looked at, so a transaction that begins in between starts after the horizon.
with sessions as (
    select
        pid,
        usename,
        application_name,
        state,
        -- All transactions of one message begin, for now(), when it came; between two of them xact_start is null.
        coalesce(
            xact_start, case when state = 'active' and backend_type = 'client backend' then query_start end
        ) as began_at
    from pg_stat_activity
    where
        datname = current_database()
        and pid <> pg_backend_pid()
        -- A parallel worker is in its leader's transaction.
        and backend_type not in ('autovacuum worker', 'parallel worker', 'walsender')
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
    hidden.role_name as hidden_role
from oldest
left join hidden on true
