-- Reads only. The types that are given and exist here, with those they are made of: how to create each, its labels.
with recursive needed as (
    select cast(to_regtype(wanted.type) as oid) as oid
    from unnest(%(types)s::text[]) as wanted (type)
    where to_regtype(wanted.type) is not null
    union
    select part.oid
    from needed
    inner join pg_type as whole on needed.oid = whole.oid
    cross join
        lateral (
            select whole.typelem as oid
            union all
            select whole.typbasetype
            union all
            select attribute.atttypid
            from pg_attribute as attribute
            where attribute.attrelid = whole.typrelid and attribute.attnum > 0 and not attribute.attisdropped
            union all
            select unnest(array[kind.rngtypid, kind.rngsubtype])
            from pg_range as kind
            where whole.oid in (kind.rngtypid, kind.rngmultitypid)
        ) as part
    where part.oid <> 0
),

enums as (
    select
        enumtypid as oid,
        array_agg(cast(enumlabel as text) order by enumsortorder) as labels,
        string_agg(quote_literal(enumlabel), ', ' order by enumsortorder) as quoted
    from pg_enum
    group by enumtypid
),

composites as (
    select
        pg_class.reltype as oid,
        string_agg(
            format('%%I %%s', attribute.attname, format_type(attribute.atttypid, attribute.atttypmod)),
            ', ' order by attribute.attnum
        ) as members
    from pg_class
    inner join pg_attribute as attribute on pg_class.oid = attribute.attrelid
    where pg_class.relkind = 'c' and not attribute.attisdropped
    group by pg_class.reltype
)

select
    format_type(kind.oid, -1) as name,
    cast(pg_namespace.nspname as text) as schema,
    enums.labels,
    kind.typtype = 'c' as is_row,
    case
        when extension.extname is not null
            then
                format('create extension %%I schema %%I', extension.extname, pg_namespace.nspname)
        when kind.typtype = 'e' then format('create type %%s as enum (%%s)', format_type(kind.oid, -1), enums.quoted)
        when kind.typtype = 'c' then format('create type %%s as (%%s)', format_type(kind.oid, -1), composites.members)
        when kind.typtype = 'd'
            then
                format(
                    'create domain %%s as %%s', format_type(kind.oid, -1), format_type(kind.typbasetype, kind.typtypmod)
                )
        when kind.typtype = 'r' then
            format(
                'create type %%s as range (subtype = %%s)',
                format_type(kind.oid, -1),
                format_type(pg_range.rngsubtype, -1)
            )
    end as creation
from needed
inner join pg_type as kind on needed.oid = kind.oid
inner join pg_namespace on kind.typnamespace = pg_namespace.oid
left join enums on kind.oid = enums.oid
left join composites on kind.oid = composites.oid
left join pg_range on kind.oid = pg_range.rngtypid
left join pg_depend as dependency
    on
        kind.oid = dependency.objid
        and dependency.classid = cast('pg_type' as regclass)
        and dependency.deptype = 'e'
left join pg_extension as extension on dependency.refobjid = extension.oid
order by kind.oid
