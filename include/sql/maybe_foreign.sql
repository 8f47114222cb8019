-- Reads only. Whether foreign.sql, which takes longer, has anything to look at: an owner other than the loader, a
-- trigger, a rule, or code that did not come with PostgreSQL.
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
                    select from pg_depend as part
                    inner join pg_depend as code on part.classid = code.classid and part.objid = code.objid
                    where
                        part.refclassid = cast('pg_class' as regclass)
                        and part.refobjid = pg_class.oid
                        and code.refobjid >= 16384
                        and code.refclassid in (
                            cast('pg_proc' as regclass), cast('pg_operator' as regclass), cast('pg_type' as regclass)
                        )
                )
            )
    ) as is_to_look_at
