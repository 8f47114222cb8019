{#
    dbt renames a view away and drops it with cascade, and with it the views built on it: whoever reads them at that
    moment, another run for one, finds them gone. Replacing a view in place keeps it and its dependents. Only where its
    columns changed otherwise than by new ones at the end is it dropped, which is what PostgreSQL then demands.
#}
{% materialization view, adapter="postgres" %}
    {%- set existing = load_cached_relation(this) -%}
    {%- set target_relation = this.incorporate(type="view") -%}
    {%- set grant_config = config.get("grants") -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {% if existing is not none and not existing.is_view %}
        {{ drop_relation_if_exists(existing) }}
    {% endif %}

    {% call statement("main") -%}
        do $in_place$
        begin
            {{ create_view_as(target_relation, sql) | replace("create view", "create or replace view", 1) }}
        exception when invalid_table_definition then
            drop view {{ target_relation }} cascade;
            {{ create_view_as(target_relation, sql) }}
        end
        $in_place$
    {%- endcall %}

    {% do apply_grants(target_relation, grant_config, should_revoke(existing, full_refresh_mode=True)) %}
    {% do persist_docs(target_relation, model) %}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {{ return({"relations": [target_relation]}) }}
{% endmaterialization %}
