-- Reads only. Functions that are given, also by their operators, and those that bodies of the source's own name, with
-- what each is made of. Names are compared as words, so more may be found than are called.
with recursive given as (
    select
        %(functions)s::oid[] as functions,
        %(operators)s::oid[] as operators
),

reached as (
    select
        pg_proc.oid,
        pg_proc.prolang,
        pg_proc.prokind
    from given
    inner join pg_proc
        on
            pg_proc.oid = any(given.functions)
            or pg_proc.oid in (
                select pg_operator.oprcode from pg_operator
                where pg_operator.oid = any(given.operators)
            )
    union
    select
        pg_proc.oid,
        pg_proc.prolang,
        pg_proc.prokind
    from reached
    cross join
        lateral regexp_split_to_table(
            case when reached.prokind <> 'a' then pg_get_functiondef(reached.oid) end, '[^[:alnum:]_$]+'
        ) as word
    inner join pg_proc on pg_proc.proname in (cast(word as name), cast(lower(word) as name))
    where
        reached.oid >= 16384
        -- Not of those in C.
        and reached.prolang not in (12, 13)
        and (pg_proc.oid >= 16384 or pg_proc.provolatile <> 'i')
)

select
    cast(cast(pg_proc.oid as regprocedure) as text) as signature,
    cast(pg_proc.proname as text) as name,
    pg_proc.oid >= 16384 as is_own,
    pg_proc.provolatile = 'i' as is_immutable,
    cast(pg_language.lanname as text) as language,
    lower(concat(case when pg_proc.prokind <> 'a' then pg_get_functiondef(pg_proc.oid) end)) as definition
from reached
inner join pg_proc on reached.oid = pg_proc.oid
inner join pg_language on pg_proc.prolang = pg_language.oid
order by pg_proc.oid
