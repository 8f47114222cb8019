-- Reads only. What a relation's values come from, beside the names and types of its columns; or no row.
select
    pg_class.oid,
    (
        -- Of columns whose type is the source's own, or that are computed; where one part is gone, all values differ.
        select coalesce(jsonb_object_agg(made_of.name, made_of.parts), '{}')
        from (
            select
                attribute.attname as name,
                jsonb_agg(part.description order by part.description) as parts
            from pg_attribute as attribute
            inner join pg_type on attribute.atttypid = pg_type.oid
            cross join
                lateral (
                    select concat('type ', pg_type.oid) as description
                    where pg_type.oid >= 16384
                    union all
                    select concat('label ', pg_enum.enumlabel)
                    from pg_enum
                    where pg_enum.enumtypid in (pg_type.oid, pg_type.typelem, pg_type.typbasetype)
                    union all
                    select concat('row of ', string_agg(concat(member.attname, ' ', member.atttypid), ', '))
                    from (
                        select
                            pg_attribute.attname,
                            pg_attribute.atttypid
                        from pg_attribute
                        where
                            pg_attribute.attrelid = pg_type.typrelid
                            and pg_attribute.attnum > 0
                            and not pg_attribute.attisdropped
                        order by pg_attribute.attnum
                    ) as member
                    where pg_type.typrelid > 0
                    union all
                    select pg_get_expr(pg_attrdef.adbin, pg_attrdef.adrelid)
                    from pg_attrdef
                    where
                        pg_attrdef.adrelid = attribute.attrelid
                        and pg_attrdef.adnum = attribute.attnum
                        and attribute.attgenerated <> ''
                ) as part
            where attribute.attrelid = pg_class.oid and attribute.attnum > 0 and not attribute.attisdropped
            group by attribute.attname
        ) as made_of
    ) as made_of,
    (
        with recursive reached as (
            select pg_class.oid
            where pg_class.relkind = 'v'
            union
            select below.oid
            from reached
            inner join pg_rewrite on reached.oid = pg_rewrite.ev_class
            inner join pg_depend
                on
                    pg_rewrite.oid = pg_depend.objid
                    and pg_depend.classid = cast('pg_rewrite' as regclass)
                    and pg_depend.refclassid = cast('pg_class' as regclass)
            inner join pg_class as below on pg_depend.refobjid = below.oid and below.relkind = 'v'
        )

        select coalesce(jsonb_object_agg(cast(reached.oid as regclass), md5(pg_get_viewdef(reached.oid))), '{}')
        from reached
    ) as views,
    (
        with recursive reached as (
            select pg_inherits.inhrelid
            from pg_inherits
            where pg_inherits.inhparent = pg_class.oid
            union
            select pg_inherits.inhrelid
            from reached
            inner join pg_inherits on reached.inhrelid = pg_inherits.inhparent
        )

        select coalesce(jsonb_agg(reached.inhrelid order by reached.inhrelid), '[]')
        from reached
    ) as partitions
from pg_class
where pg_class.oid = to_regclass(%(relation)s)
