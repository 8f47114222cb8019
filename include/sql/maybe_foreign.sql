-- Reads only. Whether foreign.sql, which takes longer, has anything to look at: an owner other than the loader, a
-- trigger, a rule, or code that did not come with PostgreSQL. It asks of more objects than foreign.sql names: of the
-- relation, its indexes, and whatever depends on it, as constraints, defaults and statistics do.
select
    exists (
        select from pg_namespace
        where nspname = any(cast(%(schemas)s as text[])) and nspowner <> cast(current_user as regrole)
    )
    or exists (
        select from pg_class
        where
            pg_class.oid = any(array(select to_regclass(name) from unnest(cast(%(relations)s as text[])) as name))
            and (
                pg_class.relowner <> cast(current_user as regrole)
                or pg_class.relhasrules
                or exists (
                    select from pg_trigger
                    where pg_trigger.tgrelid = pg_class.oid and not pg_trigger.tgisinternal
                )
                or exists (
                    select
                    from (
                        select
                            cast('pg_class' as regclass) as classid,
                            pg_class.oid as objid
                        union all
                        select
                            cast('pg_class' as regclass) as classid,
                            pg_index.indexrelid as objid
                        from pg_index
                        where pg_index.indrelid = pg_class.oid
                        union all
                        select
                            pg_depend.classid,
                            pg_depend.objid
                        from pg_depend
                        where pg_depend.refclassid = cast('pg_class' as regclass) and pg_depend.refobjid = pg_class.oid
                    ) as part
                    inner join pg_depend as code on part.classid = code.classid and part.objid = code.objid
                    where
                        code.refobjid >= 16384
                        and code.refclassid in (
                            cast('pg_proc' as regclass), cast('pg_operator' as regclass), cast('pg_type' as regclass)
                        )
                )
            )
    ) as is_to_look_at
