-- Reads only. Of functions, one that says a name or operator to which another search path than ours gives a meaning;
-- with that of an ordinary session of this role. Or no row.
with given as (
    select %(signatures)s::text[] as signatures
),

called as (
    select
        cast(cast(pg_proc.oid as regprocedure) as text) as signature,
        regexp_replace(pg_proc.prosrc, '--[^\n]*', '', 'g') as body
    from given
    inner join pg_proc on cast(cast(pg_proc.oid as regprocedure) as text) = any(given.signatures)
    inner join pg_language on pg_proc.prolang = pg_language.oid
    where
        pg_proc.oid >= 16384
        and pg_language.lanname in ('sql', 'plpgsql')
        and coalesce(to_jsonb(pg_proc) ->> 'prosqlbody', '') = ''
        and not exists (
            select 1 from unnest(pg_proc.proconfig) as setting
            where setting like 'search_path=%%'
        )
),

said as (
    select
        called.signature,
        lower(found.parts[1]) as word
    from called
    cross join lateral regexp_matches(called.body, '(?<![\w.$"])"?([[:alpha:]_][\w$]*)', 'g') as found (parts)
    union all
    select
        called.signature,
        found.parts[1] as word
    from called
    cross join lateral regexp_matches(called.body, '(?<![:(])([-+*/<>=~!@#%%^&|`?]+)', 'g') as found (parts)
),

-- Tables and views are types as well.
own as (
    select lower(pg_proc.proname) as word from pg_proc
    where pg_proc.oid >= 16384
    union all
    select lower(pg_type.typname) as word from pg_type
    where pg_type.oid >= 16384
    union all
    select cast(pg_operator.oprname as text) as word from pg_operator
    where pg_operator.oid >= 16384
)

select
    said.signature,
    said.word,
    (
        select pg_settings.reset_val from pg_settings
        where pg_settings.name = 'search_path'
    ) as search_path
from said
inner join own on said.word = own.word
order by said.signature asc, said.word asc
limit 1
