-- Reads only. Whether an index can find rows by this column; true for what cannot have one, such as a view.
with wanted as (
    select
        pg_class.oid,
        pg_class.relkind,
        %(cursor_name)s as attname
    from pg_class
    where pg_class.oid = to_regclass(%(relation)s)
)

select
    wanted.relkind not in ('r', 'p')
    or exists (
        select 1
        from pg_index
        inner join pg_attribute as attribute
            on pg_index.indrelid = attribute.attrelid and pg_index.indkey[0] = attribute.attnum
        where
            pg_index.indrelid = wanted.oid
            and pg_index.indisvalid
            and pg_index.indpred is null
            and attribute.attname = wanted.attname
    ) as is_indexed,
    wanted.relkind = 'p' as is_partitioned
from wanted
