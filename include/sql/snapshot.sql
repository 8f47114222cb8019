-- Reads only. Snapshots of one server are ordered by (xmax, fewer running transactions).
select
    pg_snapshot_xmax(taken.snapshot)::text::bigint as snapshot_xmax,
    (
        select count(*)
        from pg_snapshot_xip(taken.snapshot)
    )::integer as snapshot_running,
    clock_timestamp() as taken_at
from (select pg_current_snapshot() as snapshot) as taken
