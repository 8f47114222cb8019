-- Reads only. Whether no two rows of a relation can have one key: an index of its columns says so, and no table
-- inherits from it.
with given as (
    select
        to_regclass(%(relation)s) as relation,
        %(key)s::name[] as key
)

select count(*) > 0 as is_unique
from given
inner join pg_class on given.relation = pg_class.oid
inner join pg_index on pg_class.oid = pg_index.indrelid
where
    pg_index.indisunique
    and pg_index.indisvalid
    and pg_index.indpred is null
    and pg_index.indexprs is null
    and (
        pg_class.relkind = 'p'
        or not exists (
            select 1 from pg_inherits
            where pg_inherits.inhparent = pg_class.oid
        )
    )
    and not exists (
        select 1
        from unnest(pg_index.indkey) with ordinality as part (number, place)
        inner join pg_attribute on part.number = pg_attribute.attnum and pg_class.oid = pg_attribute.attrelid
        where part.place <= pg_index.indnkeyatts and pg_attribute.attname <> all(given.key)
    )
