{#
    dbt's role makes no schemas where this project sets the roles up: who may make one may make that of a source which
    is yet to come, and what a load would write to. Said here with the statement, where PostgreSQL names the database.
#}
{% macro postgres__create_schema(relation) -%}
    {% set may = run_query("select has_database_privilege(current_database(), 'create'), quote_ident(current_user)") %}
    {% set schema = relation.without_identifier().include(database=False) %}
    {% if may and not may.rows[0][0] %}
        {{ exceptions.raise_compiler_error(
            "the warehouse has no schema " ~ schema ~ ", and dbt's role may make none; run there, as its administrator "
            ~ "(`make psql`): create schema " ~ schema ~ " authorization " ~ may.rows[0][1] ~ "; then clear this task"
        ) }}
    {% endif %}
    {% call statement("create_schema") %}create schema if not exists {{ schema }}{% endcall %}
{%- endmacro %}
