-- Reads only. A relation, what inherits from it, and what a rewrite changes; or no row.
with recursive reached as (
    select
        pg_class.oid,
        pg_class.relfilenode,
        cast(null as bigint) as attached_by
    from pg_class
    where pg_class.oid = to_regclass(%(relation)s)
    union
    select
        pg_class.oid,
        pg_class.relfilenode,
        cast(cast(pg_inherits.xmin as text) as bigint) as attached_by
    from reached
    inner join pg_inherits on reached.oid = pg_inherits.inhparent
    inner join pg_class on pg_inherits.inhrelid = pg_class.oid
),

attributes as (
    select
        attribute.attrelid,
        bool_or(attribute.atttypid >= 16384 or attribute.attgenerated <> '') as is_made,
        jsonb_object_agg(attribute.attname, cast(cast(attribute.xmin as text) as bigint)) as changed_by
    from pg_attribute as attribute
    where
        attribute.attrelid = cast(to_regclass(%(relation)s) as oid)
        and attribute.attnum > 0
        and not attribute.attisdropped
    group by attribute.attrelid
)

select
    pg_class.oid,
    attributes.is_made or pg_class.relkind = 'v' as is_made,
    case when pg_class.relkind <> 'v' then attributes.changed_by else '{}' end as changed_by,
    (
        select md5(string_agg(cast(reached.relfilenode as text), ',' order by reached.oid))
        from reached
    ) as files,
    (
        select coalesce(jsonb_agg(distinct reached.oid), '[]')
        from reached
        where reached.attached_by is not null
    ) as partitions,
    (
        select coalesce(jsonb_object_agg(reached.oid, reached.attached_by order by reached.attached_by), '{}')
        from reached
        where reached.attached_by is not null
    ) as attached_by
from attributes
inner join pg_class on attributes.attrelid = pg_class.oid
