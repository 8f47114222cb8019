-- Reads only. No row: the relation does not exist.
select
    attribute.attname as name,
    format_type(attribute.atttypid, attribute.atttypmod) as type,
    attribute.attnotnull as is_not_null
from pg_attribute as attribute
where
    attribute.attrelid = to_regclass(%(relation)s)
    and attribute.attnum > 0
    and not attribute.attisdropped
order by attribute.attnum
