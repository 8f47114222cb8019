-- Reads only. How the views that use a column are dropped, and whether this role may have all that is built on it
-- lifted and put back.
with recursive wanted as (
    select
        cast(to_regclass(%(relation)s) as oid) as relation,
        cast(%(column_name)s as text) as column_name
),

using_it as (
    select pg_rewrite.ev_class as relation
    from wanted
    inner join pg_attribute on wanted.relation = pg_attribute.attrelid and wanted.column_name = pg_attribute.attname
    inner join pg_depend
        on pg_attribute.attrelid = pg_depend.refobjid and pg_attribute.attnum = pg_depend.refobjsubid
    inner join pg_rewrite on pg_depend.objid = pg_rewrite.oid
    where pg_depend.refclassid = cast('pg_class' as regclass) and pg_depend.classid = cast('pg_rewrite' as regclass)
),

above as (
    select relation from using_it
    union distinct
    select pg_rewrite.ev_class
    from above
    inner join pg_depend on above.relation = pg_depend.refobjid
    inner join pg_rewrite on pg_depend.objid = pg_rewrite.oid
    where pg_depend.refclassid = cast('pg_class' as regclass) and pg_depend.classid = cast('pg_rewrite' as regclass)
)

select
    array(
        select distinct
            concat(
                'drop ', case pg_class.relkind when 'm' then 'materialized ' end, 'view if exists ',
                cast(pg_class.oid as regclass), ' cascade'
            )
        from using_it
        inner join pg_class on using_it.relation = pg_class.oid
    ) as drops,
    coalesce(
        has_function_privilege(lifting.oid, 'execute')
        and not exists (
            select from above
            inner join pg_class on above.relation = pg_class.oid
            where
                pg_class.relkind <> 'v' or pg_class.relowner <> lifting.proowner or pg_class.relhastriggers
                or exists (
                    select from pg_attrdef
                    where pg_attrdef.adrelid = pg_class.oid
                )
                or exists (
                    select from pg_rewrite
                    where pg_rewrite.ev_class = pg_class.oid and pg_rewrite.rulename <> '_RETURN'
                )
        ),
        false
    ) as can_lift
from (select to_regprocedure('_elt.lift_views(regclass, text[])') as oid) as wanted
left join pg_proc as lifting on wanted.oid = lifting.oid
