-- Reads only. A relation, what inherits from it, and what a rewrite changes; or no row.
with recursive reached as (
    select
        pg_class.oid,
        pg_class.relfilenode,
        false as is_part
    from pg_class
    where pg_class.oid = to_regclass(%(relation)s)
    union
    select
        pg_class.oid,
        pg_class.relfilenode,
        true as is_part
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
        select coalesce(jsonb_agg(reached.oid order by reached.oid), '[]')
        from reached
        where reached.is_part
    ) as partitions
from attributes
inner join pg_class on attributes.attrelid = pg_class.oid
