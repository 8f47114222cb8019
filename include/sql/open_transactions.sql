-- Reads only. The oldest transactions of this database that hold its horizon back: sessions that have been in one for a
-- minute, and prepared transactions of any age. The sessions are those of horizon.sql.
with found as (
    select
        xact_start as since,
        usename as role,
        application_name,
        state,
        concat('pid ', pid) as holder
    from pg_stat_activity
    where
        datname = current_database()
        and pid <> pg_backend_pid()
        and backend_type not in ('autovacuum worker', 'walsender')
        and xact_start < statement_timestamp() - interval '1 minute'
    union all
    select
        prepared as since,
        owner as role,
        null as application_name,
        'prepared, waits for commit prepared or rollback prepared' as state,
        concat('prepared transaction ', quote_literal(gid)) as holder
    from pg_prepared_xacts
    where database = current_database()
)

select
    holder,
    role,
    application_name,
    state,
    since
from found
order by since
limit 5
