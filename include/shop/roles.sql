-- Rerunnable. The shop's database: its application owns it, the pipeline reads, the page Pipeline health sees who is in
-- a transaction.
do $$
begin
    if not exists (select from pg_roles where rolname = 'shop_app') then
        create role shop_app login;
    end if;
    if not exists (select from pg_roles where rolname = 'shop_reader') then
        create role shop_reader login;
    end if;
    if not exists (select from pg_roles where rolname = 'elt_watcher') then
        create role elt_watcher login;
    end if;
end
$$;

alter database shop owner to shop_app;
revoke all on database shop from public;
revoke all on schema public from public;
alter default privileges for role shop_app revoke execute on functions from public;
grant connect on database shop to shop_reader, elt_watcher;

-- Large objects are made by nobody: they are kept in no schema, where the grants would speak of them.
revoke execute on function lo_create(oid), lo_creat(integer), lo_from_bytea(oid, bytea) from public;

-- To see when other sessions began their transactions: the safe horizon.
grant pg_read_all_stats to shop_reader, elt_watcher;
grant usage on schema public to shop_reader;
grant select on all tables in schema public to shop_reader;
alter default privileges for role shop_app in schema public grant select on tables to shop_reader;
alter role shop_reader set default_transaction_read_only = on;
alter role elt_watcher set default_transaction_read_only = on;
