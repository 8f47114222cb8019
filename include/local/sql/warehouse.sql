-- Rerunnable. The warehouse: one role loads raw, one transforms, one reads marts; a person may be all of them.
do $$
declare
    wanted text;
begin
    foreach wanted in array array['raw_loader', 'dbt_transformer', 'bi_reader', 'warehouse_admin', 'elt_watcher'] loop
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
grant connect on database warehouse to raw_loader, dbt_transformer, bi_reader, elt_watcher;
grant create on database warehouse to raw_loader, dbt_transformer;
grant temporary on database warehouse to dbt_transformer;

-- Enums and other types of the source's own are made here by warehouse_admin. The loader only uses them: what it could
-- make in a schema on an administrator's path would run with the administrator's rights.
grant usage on schema public to raw_loader;
grant usage, create on schema public to warehouse_admin;

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

-- The page Pipeline health: the ledger, extractions under way, and the rows that failed a test.
grant usage on schema _elt, dbt_test_failures to elt_watcher;
grant select on all tables in schema _elt, dbt_test_failures to elt_watcher;
alter default privileges for role raw_loader in schema _elt grant select on tables to elt_watcher;
alter default privileges for role dbt_transformer in schema dbt_test_failures grant select on tables to elt_watcher;
alter role elt_watcher set default_transaction_read_only = on;

-- PostgreSQL changes no column that a view uses, and dbt's views belong to another role than raw. This changes a column
-- of one of the caller's own tables and makes the views above it again, in one transaction: readers miss none of them.
create or replace function _elt.change_column_type(relation regclass, column_name name, type_name text)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    dependent record;
    statement text;
    dropping text[] := '{}';
    making text[] := '{}';
    wanted text := format_type(to_regtype(type_name), -1);
begin
    if not (select pg_has_role(session_user, relowner, 'usage') from pg_class where oid = relation) then
        raise 'table % does not belong to %', relation, session_user using errcode = 'insufficient_privilege';
    end if;
    -- Rewriting the table would run its owner's functions with the rights of this one's owner.
    if not exists (select from pg_type where oid = to_regtype(type_name) and typnamespace = 'pg_catalog'::regnamespace)
        or exists (select from pg_constraint where conrelid = relation and contype = 'c')
        or exists (select from pg_index where indrelid = relation and (indexprs is not null or indpred is not null))
        or exists (select from pg_attribute where attrelid = relation and attgenerated <> '')
    then
        raise 'column % of %: its type or the table has code of its own, change it by hand', column_name, relation
            using errcode = 'insufficient_privilege';
    end if;
    for dependent in
        with recursive above as (
            select relation::oid as oid, 0 as depth
            union
            select pg_rewrite.ev_class, above.depth + 1
            from above
            join pg_depend on refclassid = 'pg_class'::regclass and refobjid = above.oid
            join pg_rewrite on classid = 'pg_rewrite'::regclass and objid = pg_rewrite.oid
            where pg_rewrite.ev_class <> above.oid
        )
        select pg_class.oid, relkind, relowner::regrole as owner, relacl, reloptions, max(depth) as depth,
            format('%I.%I', nspname, relname) as name
        from above join pg_class on above.oid = pg_class.oid join pg_namespace on relnamespace = pg_namespace.oid
        where above.depth > 0
        group by pg_class.oid, nspname
        order by depth
    loop
        if dependent.relkind <> 'v' then
            raise '% depends on % and is no view: drop it, or change the column by hand', dependent.name, relation;
        end if;
        dropping := format('drop view %s', dependent.name) || dropping;
        making := making || format(
            'create view %s %s as %s', dependent.name,
            'with (' || nullif(array_to_string(dependent.reloptions, ', '), '') || ')', pg_get_viewdef(dependent.oid)
        );
        making := making || format('alter view %s owner to %s', dependent.name, dependent.owner);
        making := making || array(
            select format(
                'grant %s on %s to %s', privilege_type, dependent.name,
                case grantee when 0 then 'public' else grantee::regrole::text end
            )
            from aclexplode(dependent.relacl)
            where grantee <> dependent.owner::oid
        );
    end loop;
    foreach statement in array
        dropping || format('alter table %s alter column %I type %s', relation, column_name, wanted) || making
    loop
        execute statement;
    end loop;
end
$$;

alter function _elt.change_column_type owner to warehouse_admin;
revoke all on function _elt.change_column_type from public;
grant execute on function _elt.change_column_type to raw_loader;
