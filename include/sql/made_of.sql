-- Reads only. What values of a view, or of columns that are computed or of the source's own types, come from.
with recursive reached as (
    -- The relation, what views show, and what inherits from either.
    select
        pg_class.oid,
        pg_class.relkind,
        cast(null as bigint) as attached_by
    from pg_class
    where pg_class.oid = to_regclass(%(relation)s)
    union
    select
        below.oid,
        below.relkind,
        given.attached_by
    from reached
    cross join
        lateral (
            select
                pg_inherits.inhrelid as oid,
                cast(cast(pg_inherits.xmin as text) as bigint) as attached_by
            from pg_inherits
            where pg_inherits.inhparent = reached.oid
            union all
            select
                pg_depend.refobjid,
                reached.attached_by
            from pg_rewrite
            inner join pg_depend
                on
                    pg_rewrite.oid = pg_depend.objid
                    and pg_depend.classid = cast('pg_rewrite' as regclass)
                    and pg_depend.refclassid = cast('pg_class' as regclass)
            where reached.relkind = 'v' and pg_rewrite.ev_class = reached.oid
        ) as given
    inner join pg_class as below on given.oid = below.oid
),

attributes as (
    select
        attribute.attrelid,
        attribute.attname,
        attribute.atttypid,
        pg_attrdef.oid as expression_number,
        pg_attrdef.adbin as tree,
        pg_get_expr(pg_attrdef.adbin, pg_attrdef.adrelid) as expression
    from reached
    inner join pg_attribute as attribute
        on reached.oid = attribute.attrelid and attribute.attnum > 0 and not attribute.attisdropped
    left join pg_attrdef
        on
            attribute.attrelid = pg_attrdef.adrelid
            and attribute.attnum = pg_attrdef.adnum
            and attribute.attgenerated <> ''
    where reached.attached_by is null
),

-- The types of columns that are the source's own, with those they are made of.
types as (
    select
        attributes.attrelid,
        attributes.attname,
        pg_type.oid,
        pg_type.typelem,
        pg_type.typbasetype,
        pg_type.typrelid
    from attributes
    inner join pg_type on attributes.atttypid = pg_type.oid and pg_type.oid >= 16384
    union
    select
        types.attrelid,
        types.attname,
        pg_type.oid,
        pg_type.typelem,
        pg_type.typbasetype,
        pg_type.typrelid
    from types
    cross join
        lateral (
            select unnest(array[types.typelem, types.typbasetype]) as oid
            union all
            select member.atttypid from pg_attribute as member
            where member.attrelid = types.typrelid and member.attnum > 0 and not member.attisdropped
            union all
            select pg_range.rngsubtype from pg_range
            where types.oid in (pg_range.rngtypid, cast(to_jsonb(pg_range) ->> 'rngmultitypid' as oid))
        ) as part
    inner join pg_type on part.oid = pg_type.oid and pg_type.oid >= 16384
),

attributes_of as (
    select
        member.attrelid,
        string_agg(concat(member.attname, ' ', member.atttypid), ', ' order by member.attnum) as described,
        string_agg(cast(member.attnum as text), ', ' order by member.attnum) as numbers
    from pg_attribute as member
    where
        member.attrelid in (
            select types.typrelid from types
            where types.typrelid > 0
        )
        and member.attnum > 0
        and not member.attisdropped
    group by member.attrelid
),

-- Where one of a column's parts is gone, all its values differ.
parts as (
    select
        types.attrelid,
        types.attname,
        description.text
    from types
    cross join
        lateral (
            select concat('type ', types.oid) as text
            union all
            select concat('label ', pg_enum.enumlabel) as text
            from pg_enum
            where pg_enum.enumtypid = types.oid
            union all
            select concat('label ', pg_enum.oid, ' ', pg_enum.enumlabel) as text
            from pg_enum
            where pg_enum.enumtypid = types.oid
            union all
            select concat('row of ', attributes_of.described) as text
            from attributes_of
            where attributes_of.attrelid = types.typrelid
            union all
            select concat('attributes ', attributes_of.numbers) as text
            from attributes_of
            where attributes_of.attrelid = types.typrelid
        ) as description
    union all
    select
        attributes.attrelid,
        attributes.attname,
        attributes.expression as text
    from attributes
    where attributes.expression is not null
    union all
    select
        attributes.attrelid,
        attributes.attname,
        concat('expression ', attributes.expression_number) as text
    from attributes
    where attributes.expression is not null
),

made_of as (
    select
        parts.attrelid,
        parts.attname,
        concat(cast(parts.attrelid as regclass), '.', parts.attname) as column_name,
        jsonb_agg(parts.text order by parts.text) as parts
    from parts
    group by parts.attrelid, parts.attname
)

select
    (
        select coalesce(jsonb_object_agg(made_of.attname, made_of.parts), '{}')
        from made_of
        where made_of.attrelid = pg_class.oid
    ) as made_of,
    (
        select coalesce(jsonb_object_agg(made_of.column_name, made_of.parts), '{}')
        from made_of
        where made_of.attrelid <> pg_class.oid
    ) as beneath,
    (
        select coalesce(jsonb_object_agg(cast(reached.oid as regclass), md5(pg_get_viewdef(reached.oid))), '{}')
        from reached
        where reached.relkind = 'v'
    ) as views,
    (
        select coalesce(jsonb_agg(distinct reached.oid), '[]')
        from reached
        where reached.attached_by is not null
    ) as partitions,
    (
        select coalesce(jsonb_object_agg(reached.oid, reached.attached_by order by reached.attached_by), '{}')
        from reached
        where reached.attached_by is not null
    ) as attached_by,
    array(
        select cast(pg_rewrite.ev_action as text)
        from reached
        inner join pg_rewrite on reached.oid = pg_rewrite.ev_class
        where reached.relkind = 'v'
        union all
        select cast(attributes.tree as text) from attributes
        where attributes.tree is not null
    ) as trees
from pg_class
where pg_class.oid = to_regclass(%(relation)s)
