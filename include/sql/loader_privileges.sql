-- Reads only. What the loader's role may do where it writes; null: the schema or table is not there yet.
select
    has_database_privilege(current_database(), 'create') as may_create_schemas,
    has_schema_privilege(to_regnamespace('_elt'), 'create') as may_use_elt,
    has_schema_privilege(to_regnamespace(%(schema)s), 'create') as may_use_schema,
    (
        select pg_has_role(relation.relowner, 'usage')
        from pg_class as relation
        where relation.oid = to_regclass(%(relation)s)
    ) as may_alter_table
