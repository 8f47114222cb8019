-- Reads only. What the loader's role may do where it writes; null: the schema is not there yet.
select
    has_database_privilege(current_database(), 'create') as may_create_schemas,
    has_schema_privilege(to_regnamespace('_elt'), 'create') as may_use_elt,
    has_schema_privilege(to_regnamespace(%(schema)s), 'create') as may_use_schema
