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
grant temporary on database warehouse to dbt_transformer;

-- Large objects are made by nobody: they are kept in no schema, where the grants would speak of them.
revoke execute on function lo_create(oid), lo_creat(integer), lo_from_bytea(oid, bytea) from public;

-- Schemas are made here, by onboarding's statements, or by the person at the keyboard. A role that runs tasks and could
-- make one would make that of the next source before its loader does.
revoke create on database warehouse from raw_loader, dbt_transformer;
grant create on database warehouse to warehouse_admin;

-- Enums and other types of the source's own are made here by warehouse_admin. The loader only uses them: what it could
-- make in a schema on an administrator's path would run with the administrator's rights.
grant usage on schema public to raw_loader;
grant usage, create on schema public to warehouse_admin;

-- Whom it lets in, the loader lets read its ledger (include/sql/create_ledger.sql). What else is in _elt holds rows
-- of the source, and is nobody's else.
create schema if not exists _elt authorization raw_loader;
grant usage on schema _elt to dbt_transformer, elt_watcher;

-- The settings list the schemas of the project, comma separated.
do $$
declare
    wanted text;
begin
    foreach wanted in array string_to_array(coalesce(current_setting('elt.raw_schemas', true), ''), ',')
        || array['raw_shop'] -- sample shop
    loop
        execute format('create schema if not exists %I authorization raw_loader', wanted);
    end loop;
    foreach wanted in array array['staging', 'intermediate', 'snapshots', 'marts', 'dbt_test_failures']
        || string_to_array(coalesce(current_setting('elt.dbt_schemas', true), ''), ',')
    loop
        execute format('create schema if not exists %I authorization dbt_transformer', wanted);
    end loop;
    -- Those that earlier versions let the loader make, too.
    for wanted in select nspname from pg_namespace where nspname like 'raw\_%' and nspowner = 'raw_loader'::regrole loop
        execute format('grant usage on schema %I to dbt_transformer', wanted);
        execute format(
            'alter default privileges for role raw_loader in schema %I grant select on tables to dbt_transformer', wanted
        );
        execute format('revoke all on all tables in schema %I from elt_watcher', wanted);
    end loop;
end
$$;

-- What earlier versions granted by default: every table of the loader, staged ones as well.
alter default privileges for role raw_loader revoke usage on schemas from dbt_transformer;
alter default privileges for role raw_loader revoke select on tables from dbt_transformer;
alter default privileges for role raw_loader in schema _elt revoke select on tables from elt_watcher;

grant usage on schema marts to bi_reader;
alter default privileges for role dbt_transformer in schema marts grant select on tables to bi_reader;

-- The page Pipeline health: the ledger, extractions under way, and the rows that failed a test.
grant usage on schema dbt_test_failures to elt_watcher;
grant select on all tables in schema dbt_test_failures to elt_watcher;
alter default privileges for role dbt_transformer in schema dbt_test_failures grant select on tables to elt_watcher;
alter role elt_watcher set default_transaction_read_only = on;

-- PostgreSQL changes no column that a view uses, and dbt's views belong to another role than raw. The loader has them
-- lifted, changes its own table with its own rights, and has them put back, all in one transaction: readers miss none.
-- These two run as dbt_transformer, whose views they are, and do nothing else: nothing that the loader wrote runs here.
-- What is lifted is kept in a temporary table, which nobody but its owner and this session reaches.
drop function if exists _elt.change_column_type(regclass, name, text);

create or replace function _elt.lift_views(relation regclass, column_names text[])
returns void language plpgsql security definer
set search_path = pg_catalog, pg_temp set standard_conforming_strings = on set transform_null_equals = off
set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set timezone = 'UTC' set extra_float_digits = 1
set bytea_output = 'hex' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = on as $$
declare
    lifted record;
begin
    if not (select pg_has_role(session_user, relowner, 'usage') from pg_class where oid = relation) then
        raise 'table % does not belong to %', relation, session_user using errcode = 'insufficient_privilege';
    end if;
    create temporary table lifted_view (
        place integer, name text, definition text, acl aclitem[], rest text
    ) on commit drop;
    loop
        -- The topmost first, as readers lock them; each is locked before it is looked at.
        with recursive above as (
            select ev_class as oid
            from pg_attribute
            join pg_depend on refclassid = 'pg_class'::regclass and refobjid = attrelid and refobjsubid = attnum
            join pg_rewrite on classid = 'pg_rewrite'::regclass and objid = pg_rewrite.oid
            where attrelid = relation and attname = any (column_names)
            union
            select ev_class
            from above
            join pg_depend on refclassid = 'pg_class'::regclass and refobjid = above.oid
            join pg_rewrite on classid = 'pg_rewrite'::regclass and objid = pg_rewrite.oid
        )
        select oid, format('%s', oid::regclass) as name into lifted
        from above
        where not exists (
            select from pg_depend
            join pg_rewrite on classid = 'pg_rewrite'::regclass and objid = pg_rewrite.oid
            where refclassid = 'pg_class'::regclass and refobjid = above.oid and ev_class <> above.oid
        )
        limit 1;
        exit when not found;
        execute format('alter view %s owner to %I', lifted.name, current_user); -- the lock; refuses others' views
        if exists (select from pg_rewrite where ev_class = lifted.oid and rulename <> '_RETURN')
            or exists (select from pg_trigger where tgrelid = lifted.oid)
            or exists (select from pg_attrdef where adrelid = lifted.oid)
            or exists (select from pg_seclabel where objoid = lifted.oid and classoid = 'pg_class'::regclass)
        then
            raise 'view % has rules, triggers, defaults or labels of its own: drop it, or change the column by hand',
                lifted.name using errcode = 'object_not_in_prerequisite_state';
        end if;
        insert into lifted_view
        select
            (select count(*) from lifted_view), lifted.name,
            format(
                'create view %s%s as %s', lifted.name, ' with (' || array_to_string(reloptions, ', ') || ')',
                pg_get_viewdef(oid)
            ),
            coalesce(relacl, acldefault('r', relowner)),
            concat(
                format('comment on view %s is %L;', lifted.name, obj_description(oid, 'pg_class')),
                (
                    select string_agg(
                        format('comment on column %s.%I is %L;', lifted.name, attname, col_description(oid, attnum)), ''
                    )
                    from pg_attribute where attrelid = oid and attnum > 0
                ),
                (
                    select string_agg(
                        format(
                            'grant %s (%I) on %s to %s%s;', privilege_type, attname, lifted.name,
                            case grantee when 0 then 'public' else grantee::regrole::text end,
                            case when is_grantable then ' with grant option' end
                        ), ''
                    )
                    from pg_attribute, aclexplode(attacl) where attrelid = oid
                )
            )
        from pg_class where oid = lifted.oid;
        execute format('drop view %s', lifted.name);
    end loop;
end
$$;

create or replace function _elt.put_views_back()
returns void language plpgsql security definer
set search_path = pg_catalog, pg_temp set standard_conforming_strings = on set transform_null_equals = off
set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set timezone = 'UTC' set extra_float_digits = 1
set bytea_output = 'hex' set lc_monetary = 'C' set xmloption = 'content' set array_nulls = on as $$
declare
    lifted record;
    granted record;
begin
    if not exists (
        select from pg_class where oid = to_regclass('pg_temp.lifted_view') and relowner = current_user::regrole
    ) then
        raise 'no views were lifted in this transaction' using errcode = 'object_not_in_prerequisite_state';
    end if;
    for lifted in select * from pg_temp.lifted_view order by place desc loop
        execute lifted.definition;
        -- What default privileges gave, then what it had.
        for granted in
            select true as is_default, acl.*, is_grantable and grantee <> grantor as may_grant
            from pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner))) as acl
            where oid = lifted.name::regclass
            union all
            select false, acl.*, is_grantable and grantee <> grantor from aclexplode(lifted.acl) as acl
            order by is_default desc
        loop
            execute format(
                case when granted.is_default then 'revoke %s on %s from %s' else 'grant %s on %s to %s%s' end,
                granted.privilege_type, lifted.name,
                case granted.grantee when 0 then 'public' else granted.grantee::regrole::text end,
                case when granted.may_grant then ' with grant option' end
            );
        end loop;
        execute lifted.rest;
    end loop;
    drop table pg_temp.lifted_view;
end
$$;

alter function _elt.lift_views(regclass, text[]) owner to dbt_transformer;
alter function _elt.put_views_back() owner to dbt_transformer;
revoke all on function _elt.lift_views(regclass, text[]), _elt.put_views_back() from public;
grant execute on function _elt.lift_views(regclass, text[]), _elt.put_views_back() to raw_loader;
