-- Reads only. The views that use a column, and whether this role may call the function that changes it beneath them.
with wanted as (
    select
        cast(to_regclass(%(relation)s) as oid) as relation,
        cast(%(column_name)s as text) as column_name
)

select
    array(
        select distinct cast(cast(pg_rewrite.ev_class as regclass) as text)
        from wanted
        inner join pg_attribute
            on wanted.relation = pg_attribute.attrelid and wanted.column_name = pg_attribute.attname
        inner join pg_depend
            on pg_attribute.attrelid = pg_depend.refobjid and pg_attribute.attnum = pg_depend.refobjsubid
        inner join pg_rewrite on pg_depend.objid = pg_rewrite.oid
        where pg_depend.classid = cast('pg_rewrite' as regclass)
    ) as views,
    coalesce(
        has_function_privilege(to_regprocedure('_elt.change_column_type(regclass, name, text)'), 'execute'), false
    ) as can_change
