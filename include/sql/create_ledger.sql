-- Rerunnable: `if not exists`, under the lock its caller holds.
create table if not exists _elt.load_ledger (
    load_id bigint generated always as identity primary key,
    extraction_id bigint not null unique,
    source text not null,
    table_name text not null,
    run_id text not null,
    mode text not null,
    window_start timestamptz,
    window_end timestamptz,
    horizon timestamptz,
    mark timestamptz,
    watermark_before text,
    watermark_published_at timestamptz,
    snapshot_xmax bigint not null,
    snapshot_running integer not null,
    rows_extracted bigint not null,
    bytes_extracted bigint not null,
    rows_inserted bigint not null,
    rows_updated bigint not null,
    rows_deleted bigint not null,
    started_at timestamptz not null,
    loaded_at timestamptz not null
);

comment on table _elt.load_ledger is
'What was loaded: one row per load, written in the transaction that published its rows.';
comment on column _elt.load_ledger.mark is
'Everything the source committed with a cursor below this instant is in raw. Null: the load moved no watermark.';
comment on column _elt.load_ledger.watermark_before is
'The Airflow Variable as this load''s extraction read it; tells a crash before its update from a person''s edit.';
comment on column _elt.load_ledger.watermark_published_at is
'When the Airflow Variable was set to this mark or a later one; or when the table was rewound before that.';
comment on column _elt.load_ledger.snapshot_xmax is
'With snapshot_running, the place of the newest read snapshot in the order of the source''s snapshots.';

create index if not exists load_ledger_table_idx on _elt.load_ledger (source, table_name, load_id desc);

-- Extractions that were begun and not yet loaded; extraction n stages its rows in _elt.staging_n. The comment on this
-- table says which version of this file made it.
create table if not exists _elt.extraction (
    extraction_id bigint generated always as identity primary key,
    source text not null,
    table_name text not null,
    run_id text not null,
    after_load_id bigint not null,
    started_at timestamptz not null default clock_timestamp()
);

-- Columns that came later, for ledgers made before them.
alter table _elt.load_ledger add column if not exists source_shape jsonb;
alter table _elt.load_ledger add column if not exists copy_format text;
alter table _elt.load_ledger add column if not exists oldest_xmax bigint;
alter table _elt.load_ledger add column if not exists oldest_running integer;
alter table _elt.load_ledger add column if not exists staged_at timestamptz;
alter table _elt.extraction add column if not exists source_shape jsonb;
alter table _elt.extraction add column if not exists rewound_at timestamptz;
alter table _elt.load_ledger add column if not exists source_server jsonb;
alter table _elt.load_ledger add column if not exists is_of_one_server boolean;
alter table _elt.extraction add column if not exists has_owner boolean not null default false;

comment on column _elt.extraction.has_owner is
'Whether one process carries out all of the run, and holds the lock of the run as long as it lives.';

comment on column _elt.load_ledger.source_server is
'The source as the load''s snapshot saw it: cluster, timeline, start, place in the log. Null: an earlier version.';
comment on column _elt.load_ledger.is_of_one_server is
'False: raw may hold what that source has lost, or never had; the next run from the watermark compares every row.';
comment on column _elt.load_ledger.source_shape is
'The source table as this load saw it: number, columns, and what of its entry says how to read it. Null: a backfill.';

create table if not exists _elt.extraction_range (
    extraction_id bigint not null,
    number integer not null,
    lower_key text[],
    upper_key text[],
    snapshot_xmax bigint,
    snapshot_running integer,
    rows_extracted bigint,
    bytes_extracted bigint,
    copy_format text,
    bucket_count integer,
    buckets integer[],
    primary key (extraction_id, number)
);

alter table _elt.extraction_range add column if not exists staged_at timestamptz;
alter table _elt.extraction_range add column if not exists server jsonb;
alter table _elt.extraction_range add column if not exists lost text;
alter table _elt.extraction_range add column if not exists lost_since timestamptz;

-- Again where _elt.extraction was dropped alone. What it leaves behind keeps its numbers from being drawn again.
alter table _elt.extraction_range drop constraint if exists extraction_range_extraction_id_fkey;
alter table _elt.extraction_range add constraint extraction_range_extraction_id_fkey
foreign key (extraction_id) references _elt.extraction on delete cascade not valid;

comment on column _elt.load_ledger.staged_at is
'When the last of its rows was staged, by the warehouse''s clock; with started_at it tells which of two read first.';
comment on table _elt.extraction_range is
'What one task of an extraction reads, lower_key <= key < upper_key, and, once it is staged, what was found.';
comment on column _elt.load_ledger.oldest_xmax is
'With oldest_running, the place of the oldest read snapshot: another one only where the table was read in ranges.';
comment on column _elt.extraction_range.buckets is
'Buckets, of bucket_count, of which every row is staged: what raw holds beyond that is gone from the source.';

-- Digests of values that an entry began to leave out or to hash, until they are stored nowhere. Nobody but the loader
-- reads them.
create table if not exists _elt.cleared (
    source text not null,
    table_name text not null,
    column_name text not null,
    digest text not null,
    primary key (source, table_name, column_name, digest)
);

-- Whoever may use the schema reads the ledger and how far extractions are, but no key, and nothing that is staged.
do $$
declare
    reader regrole;
begin
    for reader in
        select grantee from pg_namespace, aclexplode(nspacl)
        where oid = '_elt'::regnamespace and privilege_type = 'USAGE'
            and grantee not in (0, nspowner, current_user::regrole)
    loop
        execute format('revoke all on _elt.load_ledger, _elt.extraction, _elt.extraction_range from %s', reader);
        execute format('grant select on _elt.load_ledger, _elt.extraction to %s', reader);
        execute format('grant select (extraction_id, number, rows_extracted) on _elt.extraction_range to %s', reader);
    end loop;
end
$$;
