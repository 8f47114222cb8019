-- Reads only. The columns of text in the tables that this role has made, but for the ledger's; raw's if wanted.
with wanted as (
    select cast(%(with_raw)s as boolean) as with_raw
)

select
    pg_namespace.nspname as schema_name,
    pg_class.relname as table_name,
    pg_attribute.attname as column_name
from wanted
cross join pg_class
inner join pg_namespace on pg_class.relnamespace = pg_namespace.oid
inner join pg_attribute on pg_class.oid = pg_attribute.attrelid
inner join pg_type on pg_attribute.atttypid = pg_type.oid
inner join pg_roles on pg_class.relowner = pg_roles.oid
where
    pg_roles.rolname = current_user
    and pg_class.relkind in ('r', 'm')
    and pg_class.relpersistence <> 't'
    and (pg_namespace.nspname <> '_elt' or pg_class.relname like 'staging\_%%')
    and (pg_namespace.nspname not like 'raw\_%%' or wanted.with_raw)
    and pg_attribute.attnum > 0
    and not pg_attribute.attisdropped
    and pg_type.typcategory = 'S'
order by pg_namespace.nspname, pg_class.relname, pg_attribute.attnum
