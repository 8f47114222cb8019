{# dbt-postgres cuts the time zone off, and then warns that our columns have one. #}
{% macro postgres__snapshot_get_time() -%}
    current_timestamp
{%- endmacro %}
