-- A watch on raw, as superuser: a row that a load replaces by an older version is written down, whoever does it and
-- however briefly. An event trigger, because raw tables are born in the transaction that first loads them.
create schema drill;

create table drill.regressions (relation text, row_before text, row_after text);

create function drill.note_regression() returns trigger language plpgsql security definer as $$
begin
    insert into drill.regressions values (tg_relid::regclass, old::text, new::text);
    return null;
end
$$;

create function drill.watch_raw() returns event_trigger language plpgsql security definer set search_path = '' as $$
declare
    born regclass;
begin
    for born in
        select objid::regclass from pg_catalog.pg_event_trigger_ddl_commands()
        where object_type = 'table' and schema_name = 'raw_shop' and not exists (
            select from pg_catalog.pg_trigger where tgrelid = objid and tgname = 'no_version_goes_back'
        )
    loop
        execute pg_catalog.format(
            'create trigger no_version_goes_back after update on %s for each row '
            'when (new.version < old.version) execute function drill.note_regression()', born);
    end loop;
end
$$;

create event trigger watch_raw on ddl_command_end
when tag in ('CREATE TABLE', 'CREATE TABLE AS', 'ALTER TABLE') execute function drill.watch_raw();
