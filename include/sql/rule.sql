-- Reads only. The query of a view as the parser left it, and the number of a column of the view; or no row.
with given as (
    select
        cast(%(view)s as oid) as view_oid,
        cast(%(column_name)s as text) as column_name
)

select
    cast(pg_rewrite.ev_action as text) as rule,
    pg_attribute.attnum as number
from given
inner join pg_class on given.view_oid = pg_class.oid and pg_class.relkind = 'v'
inner join pg_rewrite on pg_class.oid = pg_rewrite.ev_class and pg_rewrite.ev_type = '1'
left join pg_attribute
    on
        given.view_oid = pg_attribute.attrelid
        and given.column_name = pg_attribute.attname
        and pg_attribute.attnum > 0
