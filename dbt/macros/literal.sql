{# A variable, or any text from outside, as an SQL literal: the only way it gets into a statement (a test looks). #}
{% macro literal(value) -%}
    '{{ value | string | replace("'", "''") }}'
{%- endmacro %}
