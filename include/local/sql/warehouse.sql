-- Rerunnable. The warehouse: one role loads raw, one transforms, one reads marts; a person may be all of them.
do $$
declare
    wanted text;
begin
    foreach wanted in array array['raw_loader', 'dbt_transformer', 'bi_reader', 'warehouse_admin'] loop
        if not exists (select from pg_roles where rolname = wanted) then
            execute format('create role %I login', wanted);
        end if;
    end loop;
end
$$;

grant raw_loader to warehouse_admin;
grant dbt_transformer to warehouse_admin;
revoke all on database warehouse from public;
revoke all on schema public from public;
grant connect on database warehouse to raw_loader, dbt_transformer, bi_reader;
grant create on database warehouse to raw_loader, dbt_transformer;
grant temporary on database warehouse to dbt_transformer;

create schema if not exists _elt authorization raw_loader;
create schema if not exists raw_shop authorization raw_loader;
grant usage on schema _elt, raw_shop to dbt_transformer;
alter default privileges for role raw_loader grant usage on schemas to dbt_transformer;
alter default privileges for role raw_loader grant select on tables to dbt_transformer;

-- Created here, because tasks that start together would race for `create schema if not exists`.
create schema if not exists staging authorization dbt_transformer;
create schema if not exists intermediate authorization dbt_transformer;
create schema if not exists snapshots authorization dbt_transformer;
create schema if not exists marts authorization dbt_transformer;
create schema if not exists dbt_test_failures authorization dbt_transformer;
grant usage on schema marts to bi_reader;
alter default privileges for role dbt_transformer in schema marts grant select on tables to bi_reader;
