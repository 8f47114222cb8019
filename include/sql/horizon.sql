-- Reads only. Has to be the first statement of its own transaction: statement_timestamp() is then taken before the
-- sessions are looked at, so a transaction that begins in between starts after the horizon.
with sessions as (
    select
        pid,
        usename,
        application_name,
        xact_start
    from pg_stat_activity
    where
        datname = current_database()
        and pid <> pg_backend_pid()
        and backend_type not in ('autovacuum worker', 'walsender')
        and xact_start is not null
),

oldest as (
    select
        min(xact_start) as xact_start,
        (array_agg(pid order by xact_start))[1] as pid,
        (array_agg(usename order by xact_start))[1] as usename,
        (array_agg(application_name order by xact_start))[1] as application_name
    from sessions
)

select
    statement_timestamp() as read_at,
    least(statement_timestamp(), oldest.xact_start) as at,
    pg_is_in_recovery() as in_recovery,
    pg_has_role(current_user, 'pg_read_all_stats', 'usage') as sees_all_sessions,
    exists(
        select 1
        from pg_prepared_xacts
        where pg_prepared_xacts.database = current_database()
    ) as has_prepared,
    oldest.pid,
    oldest.usename,
    oldest.application_name
from oldest
