-- Reads only. The statements that give a table the rights with which it would have been made where it is: a staging
-- table that moved into raw has those of the schema it comes from.
with relation as (
    select
        oid,
        relnamespace,
        relowner,
        relacl
    from pg_class
    where oid = to_regclass(%(relation)s)
),

granted as (
    select
        'revoke %%s on %%s from %%s' as change,
        rights.grantee,
        rights.privilege_type,
        false as is_grantable
    from relation
    cross join aclexplode(relation.relacl) as rights
    union all
    select
        'grant %%s on %%s to %%s%%s' as change,
        rights.grantee,
        rights.privilege_type,
        rights.is_grantable
    from relation
    inner join pg_default_acl
        on
            relation.relowner = pg_default_acl.defaclrole
            and pg_default_acl.defaclnamespace in (0, relation.relnamespace)
            and pg_default_acl.defaclobjtype = 'r'
    cross join aclexplode(pg_default_acl.defaclacl) as rights
)

select
    format(
        granted.change,
        granted.privilege_type,
        cast(relation.oid as regclass),
        case granted.grantee when 0 then 'public' else cast(cast(granted.grantee as regrole) as text) end,
        case when granted.is_grantable then ' with grant option' end
    ) as change
from relation
cross join granted
where granted.grantee <> relation.relowner
order by granted.change desc
