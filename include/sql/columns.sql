-- Reads only. No row: the relation does not exist, or has no column.
select
    attribute.attnum as number,
    attribute.attname as name,
    format_type(attribute.atttypid, -1) as type,
    format_type(attribute.atttypid, attribute.atttypmod) as declared_type,
    attribute.attnotnull as is_not_null,
    (
        select pg_constraint.conname
        from pg_constraint
        where
            pg_constraint.conrelid = attribute.attrelid
            and pg_constraint.contype = 'p'
            and attribute.attnum = any(pg_constraint.conkey)
    ) as primary_key
from pg_attribute as attribute
where
    attribute.attrelid = to_regclass(%(relation)s)
    and attribute.attnum > 0
    and not attribute.attisdropped
order by attribute.attnum
