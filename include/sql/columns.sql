-- Reads only. No row: the relation does not exist, or has no column. A domain is its base type: its checks are the
-- source's, and what it adds to the type is no value.
with recursive underlying as (
    select
        attribute.attrelid,
        attribute.attnum,
        attribute.attname,
        attribute.attnotnull,
        attribute.atttypid as type,
        attribute.atttypmod as modifier
    from pg_attribute as attribute
    where
        attribute.attrelid = to_regclass(%(relation)s)
        and attribute.attnum > 0
        and not attribute.attisdropped
    union all
    select
        underlying.attrelid,
        underlying.attnum,
        underlying.attname,
        underlying.attnotnull,
        pg_type.typbasetype as type,
        coalesce(nullif(pg_type.typtypmod, -1), underlying.modifier) as modifier
    from underlying
    inner join pg_type on underlying.type = pg_type.oid
    where pg_type.typtype = 'd'
)

select
    underlying.attnum as number,
    underlying.attname as name,
    format_type(underlying.type, -1) as type,
    format_type(underlying.type, underlying.modifier) as declared_type,
    underlying.attnotnull as is_not_null,
    (
        select pg_constraint.conname
        from pg_constraint
        where
            pg_constraint.conrelid = underlying.attrelid
            and pg_constraint.contype = 'p'
            and underlying.attnum = any(pg_constraint.conkey)
    ) as primary_key
from underlying
inner join pg_type on underlying.type = pg_type.oid
where pg_type.typtype <> 'd'
order by underlying.attnum
