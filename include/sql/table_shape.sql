-- Reads only. One table of a source as JSON: what `make onboard` writes sources, models and tests from; or no row.
with relation as (
    select
        pg_class.oid,
        pg_class.relkind,
        obj_description(pg_class.oid, 'pg_class') as description
    from pg_class
    where pg_class.oid = to_regclass(%(relation)s)
),

shape as (
    select
        attribute.attnum,
        attribute.attname as name,
        quote_ident(attribute.attname) as quoted,
        format_type(attribute.atttypid, attribute.atttypmod) as type,
        attribute.attnotnull as is_not_null,
        coalesce(element.typnamespace, base.typnamespace) = cast('pg_catalog' as regnamespace) as is_builtin,
        base.typcategory as category,
        col_description(attribute.attrelid, attribute.attnum) as description
    from relation
    inner join pg_attribute as attribute on relation.oid = attribute.attrelid
    inner join pg_type as base on attribute.atttypid = base.oid
    left join pg_type as element on base.typelem = element.oid and base.typcategory = 'A'
    where attribute.attnum > 0 and not attribute.attisdropped
),

-- The primary key, else the smallest unique index that could be one.
candidates as (
    select
        pg_index.indkey,
        row_number() over (
            order by pg_index.indisprimary desc, pg_index.indnkeyatts asc, pg_index.indexrelid asc
        ) as preference
    from relation
    inner join pg_index on relation.oid = pg_index.indrelid
    where
        pg_index.indisunique
        and pg_index.indisvalid
        and pg_index.indpred is null
        and pg_index.indexprs is null
        and pg_index.indnkeyatts = pg_index.indnatts
        and not exists (
            select 1 from shape
            where shape.attnum = any(pg_index.indkey) and not shape.is_not_null
        )
),

key_columns as (
    select
        shape.name,
        position.number
    from candidates
    cross join unnest(candidates.indkey) with ordinality as position (attnum, number)
    inner join shape on position.attnum = shape.attnum
    where candidates.preference = 1
),

indexed as (
    select distinct shape.name
    from relation
    inner join pg_index on relation.oid = pg_index.indrelid
    inner join shape on pg_index.indkey[0] = shape.attnum
    where pg_index.indisvalid and pg_index.indpred is null
),

foreign_keys as (
    select
        shape.name as column_name,
        parent_schema.nspname as parent_schema,
        parent.relname as parent_table,
        parent_column.attname as parent_column
    from relation
    inner join pg_constraint as reference
        on relation.oid = reference.conrelid and reference.contype = 'f' and cardinality(reference.conkey) = 1
    inner join shape on reference.conkey[1] = shape.attnum
    inner join pg_class as parent on reference.confrelid = parent.oid
    inner join pg_namespace as parent_schema on parent.relnamespace = parent_schema.oid
    inner join pg_attribute as parent_column
        on reference.confrelid = parent_column.attrelid and reference.confkey[1] = parent_column.attnum
)

select
    relation.relkind,
    relation.description,
    (
        select jsonb_agg(to_jsonb(shape) - 'attnum' order by shape.attnum)
        from shape
    ) as columns,
    (
        select coalesce(jsonb_agg(key_columns.name order by key_columns.number), '[]')
        from key_columns
    ) as key,
    (
        select coalesce(jsonb_agg(indexed.name), '[]')
        from indexed
    ) as indexed,
    (
        select coalesce(jsonb_agg(to_jsonb(foreign_keys) order by foreign_keys.column_name), '[]')
        from foreign_keys
    ) as foreign_keys
from relation
