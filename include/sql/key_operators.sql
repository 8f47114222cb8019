-- Reads only. The columns of a table's primary key, each with the operator by which it tells its values apart.
with part as (
    select
        pg_index.indrelid,
        unnest(cast(pg_index.indkey as int2[])) as attnum,
        unnest(cast(pg_index.indclass as oid[])) as opclass
    from pg_index
    where pg_index.indrelid = cast(to_regclass(%(relation)s) as oid) and pg_index.indisprimary
)

select
    attribute.attname as column_name,
    format('operator(%%I.%%s)', pg_namespace.nspname, pg_operator.oprname) as equals
from part
inner join pg_attribute as attribute on part.indrelid = attribute.attrelid and part.attnum = attribute.attnum
inner join pg_opclass on part.opclass = pg_opclass.oid
inner join pg_amop
    on
        pg_opclass.opcfamily = pg_amop.amopfamily
        and pg_opclass.opcintype = pg_amop.amoplefttype
        and pg_opclass.opcintype = pg_amop.amoprighttype
        and pg_amop.amopstrategy = 3
inner join pg_operator on pg_amop.amopopr = pg_operator.oid
inner join pg_namespace on pg_operator.oprnamespace = pg_namespace.oid
