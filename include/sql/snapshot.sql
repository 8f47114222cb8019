-- Reads only. Snapshots of one server are ordered by (xmax, fewer running transactions).
select
    cast(cast(pg_snapshot_xmax(taken.seen) as text) as bigint) as snapshot_xmax,
    (
        select cast(count(*) as integer)
        from pg_snapshot_xip(taken.seen)
    ) as snapshot_running,
    clock_timestamp() as taken_at
from (select pg_current_snapshot() as seen) as taken
