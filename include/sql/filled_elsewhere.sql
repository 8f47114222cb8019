-- Reads only. What of a relation, through views and partitions, shows rows at another time than a transaction of its
-- own database writes them; or no row.
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
    cross join
        lateral (
            select pg_inherits.inhrelid as oid
            from pg_inherits
            where pg_inherits.inhparent = reached.oid
            union all
            select pg_depend.refobjid
            from pg_rewrite
            inner join pg_depend on pg_rewrite.oid = pg_depend.objid
            where
                reached.relkind = 'v'
                and pg_rewrite.ev_class = reached.oid
                and pg_depend.classid = cast('pg_rewrite' as regclass)
                and pg_depend.refclassid = cast('pg_class' as regclass)
        ) as below
    inner join pg_class on below.oid = pg_class.oid
),

filled as (
    select
        reached.oid,
        case
            when reached.relkind = 'm' then 'a materialized view'
            when reached.relkind = 'f' then 'a foreign table'
            -- No row can be changed through it: it joins, groups or limits.
            when reached.relkind = 'v' and pg_relation_is_updatable(reached.oid, false) & 4 = 0
                then 'a view of more than the rows of one table'
            when
                reached.relkind = 'v'
                and pg_get_viewdef(reached.oid)
                ~* '\m(now\(|current_(date|time)|local(time)|(clock|statement|transaction)_timestamp|timeofday)'
                then 'a view that goes by the time'
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
    cast(cast(filled.oid as regclass) as text) as relation,
    filled.how
from filled
where filled.how is not null
order by filled.oid
limit 1
