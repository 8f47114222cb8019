-- Rerunnable. The drill's source, which its application owns and the pipeline reads.
do $$
begin
    if not exists (select from pg_roles where rolname = 'shop_app') then
        create role shop_app login;
        create role shop_reader login;
    end if;
end
$$;

alter database shop owner to shop_app;
grant pg_read_all_stats to shop_reader;
grant usage on schema public to shop_reader;
alter default privileges for role shop_app in schema public grant select on tables to shop_reader;
alter role shop_reader set default_transaction_read_only = on;
