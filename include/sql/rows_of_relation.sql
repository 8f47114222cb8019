-- Reads only. What of a relation, or of its partitions, is a view, or filled at another time than a transaction of its
-- own database writes it; or no row.
with recursive reached as (
    select
        pg_class.oid,
        pg_class.relkind
    from pg_class
    where pg_class.oid = to_regclass(%(relation)s)
    union
    select
        pg_class.oid,
        pg_class.relkind
    from reached
    inner join pg_inherits on reached.oid = pg_inherits.inhparent
    inner join pg_class on pg_inherits.inhrelid = pg_class.oid
),

filled as (
    select
        reached.oid,
        case
            when reached.relkind = 'm' then 'a materialized view'
            when reached.relkind = 'f' then 'a foreign table'
            when reached.relkind = 'v' then 'a view'
            when exists (
                select 1
                from pg_subscription_rel
                where
                    pg_subscription_rel.srrelid = reached.oid
                    or pg_subscription_rel.srrelid in (
                        select ancestor.relid
                        from pg_partition_ancestors(reached.oid) as ancestor
                    )
            ) then 'filled by a subscription'
        end as how
    from reached
)

select
    filled.oid,
    cast(cast(filled.oid as regclass) as text) as relation,
    filled.how
from filled
where filled.how is not null
order by filled.oid
limit 1
