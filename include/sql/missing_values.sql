-- Reads only. Columns that rows got with a constant default when they were added: what the catalog has for rows of
-- before that, of the table and of its partitions and children. Other defaults have the table written anew.
with recursive tree as (
    select to_regclass(%(relation)s)::oid as relation
    union
    select pg_inherits.inhrelid as relation
    from tree
    inner join pg_inherits on tree.relation = pg_inherits.inhparent
),

missing as (
    select
        attrelid,
        attname,
        array_to_string(attmissingval, '') as held
    from pg_attribute
    where atthasmissing and not attisdropped and attname = any(%(names)s)
)

select
    missing.attname as name,
    array_agg(distinct missing.held) as held
from tree
inner join missing on tree.relation = missing.attrelid
group by missing.attname
