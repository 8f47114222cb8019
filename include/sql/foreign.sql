-- Reads only. What of some schemas and tables belongs to a role that the loader does not trust, so that a load might
-- run that role's code with the loader's rights; the first one. Trusted are the loader, whose rights it has, who may
-- act as the loader anyway, superusers among them, and the database's owner.
with me as (
    select
        oid,
        rolsuper
    from pg_roles
    where rolname = current_user
),

trusted as (
    select
        pg_roles.oid,
        pg_roles.rolsuper
    from pg_roles
    cross join me
    where
        pg_has_role(pg_roles.oid, me.oid, 'member')
        or (not me.rolsuper and pg_has_role(me.oid, pg_roles.oid, 'usage'))
        or pg_roles.oid = (
            select pg_database.datdba from pg_database
            where pg_database.datname = current_database()
        )
),

wanted as (
    select
        unnest(cast(%(in_schemas)s as text[])) as schema_name,
        unnest(cast(%(tables)s as text[])) as name
),

relation as (
    select
        pg_class.oid,
        pg_class.relowner,
        pg_class.relkind,
        cast(cast(pg_class.oid as regclass) as text) as name
    from wanted
    inner join pg_namespace on wanted.schema_name = pg_namespace.nspname
    inner join pg_class on pg_namespace.oid = pg_class.relnamespace and wanted.name = pg_class.relname
),

-- What of a relation holds an expression or names a type.
part (classid, objid, relation, name) as (
    select
        cast('pg_class' as regclass) as classid,
        oid as objid,
        oid as relation,
        'a column' as name
    from relation
    union all
    select
        cast('pg_constraint' as regclass) as classid,
        oid as objid,
        conrelid as relation,
        conname as name
    from pg_constraint
    union all
    select
        cast('pg_attrdef' as regclass) as classid,
        oid as objid,
        adrelid as relation,
        'a default' as name
    from pg_attrdef
    union all
    select
        cast('pg_class' as regclass) as classid,
        indexrelid as objid,
        indrelid as relation,
        'an index' as name
    from pg_index
    union all
    select
        cast('pg_statistic_ext' as regclass) as classid,
        oid as objid,
        stxrelid as relation,
        'statistics' as name
    from pg_statistic_ext
),

code as (
    select
        cast('pg_proc' as regclass) as classid,
        oid,
        proowner as owner
    from pg_proc
    union all
    select
        cast('pg_operator' as regclass) as classid,
        oid,
        oprowner as owner
    from pg_operator
    union all
    select
        cast('pg_type' as regclass) as classid,
        oid,
        typowner as owner
    from pg_type
    where typtype = 'd'
),

found as (
    select
        1 as place,
        'schema ' || quote_ident(nspname) as what,
        nspowner as owner,
        'alter schema ' || quote_ident(nspname) as remedy
    from pg_namespace
    where nspname = any(cast(%(schemas)s as text[]))
    union all
    select
        2 as place,
        'table ' || name as what,
        relowner as owner,
        'alter table ' || name as remedy
    from relation
    union all
    select
        3 as place,
        concat('code called by ', part.name, ' of table ', relation.name) as what,
        code.owner,
        null as remedy
    from relation
    inner join part on relation.oid = part.relation
    inner join pg_depend on part.classid = pg_depend.classid and part.objid = pg_depend.objid
    inner join code on pg_depend.refclassid = code.classid and pg_depend.refobjid = code.oid
)

select
    found.what || ' belongs to ' || cast(cast(found.owner as regrole) as text) as problem,
    coalesce(found.remedy || ' owner to ' || quote_ident(current_user) || ', if you know what made it', 'drop it there')
        as remedy,
    found.place
from found
where found.owner not in (select trusted.oid from trusted)
union all
select
    concat('table ', relation.name, ' has trigger ', quote_ident(pg_trigger.tgname)) as problem,
    'drop it there' as remedy,
    4 as place
from relation
inner join pg_trigger on relation.oid = pg_trigger.tgrelid
inner join pg_proc on pg_trigger.tgfoid = pg_proc.oid
where
    not pg_trigger.tgisinternal
    -- A superuser needs no trap; but anyone may attach what PostgreSQL brings.
    and not (
        pg_proc.proowner in (
            select trusted.oid from trusted
            where trusted.rolsuper
        )
        and pg_proc.pronamespace <> cast('pg_catalog' as regnamespace)
    )
union all
select
    concat('table ', relation.name, ' has rule ', quote_ident(pg_rewrite.rulename)) as problem,
    'drop it there' as remedy,
    5 as place
from relation
inner join pg_rewrite on relation.oid = pg_rewrite.ev_class
where relation.relkind <> 'v'
order by place
limit 1
