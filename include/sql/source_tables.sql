-- Reads only. Every relation of a source that could be loaded, as JSON: what `make onboard` writes from. Needs no
-- privilege on any of them.
with recursive relations as materialized (
    select
        pg_class.oid,
        pg_class.relkind,
        pg_class.relispartition,
        pg_namespace.nspname as schema,
        pg_class.relname as identifier,
        obj_description(pg_class.oid, 'pg_class') as comment,
        has_schema_privilege(pg_namespace.oid, 'usage') as may_use_schema,
        row_security_active(pg_class.oid) as hides_rows,
        pg_class.oid in (select pg_inherits.inhrelid from pg_inherits) as is_child,
        pg_class.relkind <> 'p' and pg_class.oid in (select pg_inherits.inhparent from pg_inherits) as has_children,
        pg_class.oid in (select pg_subscription_rel.srrelid from pg_subscription_rel) as is_subscribed,
        (
            select pg_extension.extname
            from pg_depend
            inner join pg_extension on pg_depend.refobjid = pg_extension.oid
            where
                pg_depend.classid = cast('pg_class' as regclass)
                and pg_depend.objid = pg_class.oid
                and pg_depend.deptype = 'e'
        ) as extension
    from pg_class
    inner join pg_namespace on pg_class.relnamespace = pg_namespace.oid
    where
        pg_class.relkind in ('r', 'p', 'v', 'm', 'f')
        and pg_class.relpersistence <> 't'
        and pg_namespace.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
),

-- Each with the partitions and children whose rows are its own, however deep.
families as (
    select
        relations.oid,
        relations.oid as member
    from relations
    union all
    select
        families.oid,
        pg_inherits.inhrelid
    from families
    inner join pg_inherits on families.member = pg_inherits.inhparent
),

sizes as (
    select
        families.oid,
        coalesce(sum(pg_table_size(families.member)), 0) as bytes
    from families
    group by families.oid
),

-- Each type with what it is made of: a domain's base type, however deep.
underlying as (
    select
        pg_type.oid,
        pg_type.oid as base
    from pg_type
    union all
    select
        underlying.oid,
        pg_type.typbasetype
    from underlying
    inner join pg_type on underlying.base = pg_type.oid
    where pg_type.typtype = 'd'
),

shape as materialized (
    select
        relations.oid,
        attribute.attnum,
        attribute.attname as name,
        quote_ident(attribute.attname) as quoted,
        format_type(base.oid, -1) as type,
        attribute.attnotnull as is_not_null,
        coalesce(element.typnamespace, base.typnamespace) = cast('pg_catalog' as regnamespace) as is_builtin,
        base.typcategory as category,
        col_description(relations.oid, attribute.attnum) as description,
        has_column_privilege(relations.oid, attribute.attnum, 'select') as is_readable,
        (
            select jsonb_agg(pg_enum.enumlabel order by pg_enum.enumsortorder)
            from pg_enum
            where pg_enum.enumtypid = base.oid
        ) as labels,
        base.typcategory = 'D' and exists (
            select 1
            from pg_trigger
            inner join pg_proc on pg_trigger.tgfoid = pg_proc.oid
            where
                pg_trigger.tgrelid = relations.oid
                and not pg_trigger.tgisinternal
                and pg_trigger.tgenabled in ('O', 'A')
                -- Before an update, for each row.
                and pg_trigger.tgtype & 19 = 19
                and (
                    position(lower(attribute.attname) in lower(pg_proc.prosrc)) > 0
                    or position(attribute.attname in encode(pg_trigger.tgargs, 'escape')) > 0
                )
        ) as is_kept
    from relations
    inner join pg_attribute as attribute on relations.oid = attribute.attrelid
    inner join underlying on attribute.atttypid = underlying.oid
    inner join pg_type as base on underlying.base = base.oid and base.typtype <> 'd'
    left join pg_type as element on base.typelem = element.oid and base.typcategory = 'A'
    where attribute.attnum > 0 and not attribute.attisdropped
),

-- The primary key, else the smallest unique index that could be one. The columns of INCLUDE are not part of it.
candidates as (
    select
        pg_index.indrelid,
        pg_index.indkey,
        pg_index.indnkeyatts,
        row_number() over (
            partition by pg_index.indrelid
            order by pg_index.indisprimary desc, pg_index.indnkeyatts asc, pg_index.indexrelid asc
        ) as preference
    from relations
    inner join pg_index on relations.oid = pg_index.indrelid
    where
        pg_index.indisunique
        and pg_index.indisvalid
        and pg_index.indpred is null
        and pg_index.indexprs is null
        and not exists (
            select 1
            from unnest(pg_index.indkey) with ordinality as part (attnum, number)
            inner join shape on part.attnum = shape.attnum and pg_index.indrelid = shape.oid
            where part.number <= pg_index.indnkeyatts and not shape.is_not_null
        )
),

key_columns as (
    select
        candidates.indrelid as oid,
        jsonb_agg(shape.name order by part.number) as key
    from candidates
    cross join unnest(candidates.indkey) with ordinality as part (attnum, number)
    inner join shape on part.attnum = shape.attnum and candidates.indrelid = shape.oid
    where candidates.preference = 1 and part.number <= candidates.indnkeyatts
    group by candidates.indrelid
),

indexed as (
    select
        shape.oid,
        jsonb_agg(distinct shape.name) as indexed
    from shape
    inner join pg_index on shape.oid = pg_index.indrelid and shape.attnum = pg_index.indkey[0]
    where pg_index.indisvalid and pg_index.indpred is null
    group by shape.oid
),

-- Those that the server vouches for: a test of the others would fail with the first row that was there before them.
foreign_keys as (
    select
        reference.conrelid as oid,
        jsonb_agg(
            jsonb_build_object(
                'columns', sides.columns,
                'schema', pg_namespace.nspname,
                'table', parent.relname,
                'parent_columns', sides.parent_columns,
                'parent_quoted', sides.parent_quoted,
                'is_of_one_type', sides.is_of_one_type
            ) order by reference.oid
        ) as foreign_keys
    from relations
    inner join pg_constraint as reference
        on
            relations.oid = reference.conrelid
            and reference.contype = 'f'
            and reference.convalidated
            and reference.conparentid = 0
    inner join pg_class as parent on reference.confrelid = parent.oid
    inner join pg_namespace on parent.relnamespace = pg_namespace.oid
    cross join
        lateral (
            select
                jsonb_agg(child_column.attname order by part.number) as columns,
                jsonb_agg(parent_column.attname order by part.number) as parent_columns,
                jsonb_agg(quote_ident(parent_column.attname) order by part.number) as parent_quoted,
                bool_and(child_column.atttypid = parent_column.atttypid) as is_of_one_type,
                bool_and(collation_of.collisdeterministic is not false) as is_by_bytes
            from unnest(reference.conkey, reference.confkey) with ordinality as part (attnum, parent_attnum, number)
            inner join pg_attribute as child_column
                on reference.conrelid = child_column.attrelid and part.attnum = child_column.attnum
            inner join pg_attribute as parent_column
                on reference.confrelid = parent_column.attrelid and part.parent_attnum = parent_column.attnum
            left join pg_collation as collation_of on parent_column.attcollation = collation_of.oid
        ) as sides
    where
        -- PostgreSQL 18 has keys that it does not enforce.
        coalesce(to_jsonb(reference) ->> 'conenforced', 'true') = 'true'
        -- Texts that are equal in the source alone.
        and sides.is_by_bytes
    group by reference.conrelid
),

columns as (
    select
        shape.oid,
        jsonb_agg(to_jsonb(shape) - 'attnum' - 'oid' order by shape.attnum) as columns
    from shape
    group by shape.oid
)

select
    to_jsonb(relations) - 'oid' - 'relispartition' || jsonb_build_object(
        'is_partition', relations.relispartition,
        'bytes', sizes.bytes,
        'columns', coalesce(columns.columns, '[]'),
        'key', coalesce(key_columns.key, '[]'),
        'indexed', coalesce(indexed.indexed, '[]'),
        'foreign_keys', coalesce(foreign_keys.foreign_keys, '[]')
    ) as facts
from relations
inner join sizes on relations.oid = sizes.oid
left join columns on relations.oid = columns.oid
left join key_columns on relations.oid = key_columns.oid
left join indexed on relations.oid = indexed.oid
left join foreign_keys on relations.oid = foreign_keys.oid
order by relations.schema, relations.identifier
