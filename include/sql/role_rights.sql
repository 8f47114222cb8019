-- Reads only. What a role may do in this database beside reading, by itself or as a member of others; or no row, where
-- there is no such role.
with role as (
    select
        oid,
        rolsuper
    from pg_roles
    where rolname = %(role)s
),

-- Whom the role can become: also without inheriting, by SET ROLE.
identities as (
    select pg_roles.oid
    from role
    inner join pg_roles on pg_has_role(role.oid, pg_roles.oid, 'member')
),

relations as (
    select
        pg_class.oid,
        pg_class.relowner
    from pg_class
    inner join pg_namespace on pg_class.relnamespace = pg_namespace.oid
    where
        pg_class.relkind in ('r', 'p', 'v', 'm', 'f')
        and pg_namespace.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
)

select
    case
        when role.rolsuper then 'is a superuser'
        when
            exists (
                select 1 from relations
                where relations.relowner in (select identities.oid from identities)
            )
            or exists (
                select 1 from pg_database
                where
                    pg_database.datname = current_database()
                    and pg_database.datdba in (select identities.oid from identities)
            )
            then 'owns what is there'
        when
            exists (
                select 1
                from relations
                cross join identities
                where has_table_privilege(identities.oid, relations.oid, 'insert, update, delete, truncate')
            )
            then 'writes'
    end as does_more
from role
