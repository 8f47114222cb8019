{% macro note(what, how) -%}
    insert into {{ target.schema }}.log values ('{{ invocation_id }}', '{{ what }}', '{{ how }}')
{%- endmacro %}

{% macro note_results(results, schemas) -%}
    insert into {{ target.schema }}.log values
    {% for result in results %}
        ('{{ invocation_id }}', '{{ result.node.unique_id }}', '{{ result.status }} {{ result.failures or 0 }}'),
    {% endfor %}
    ('{{ invocation_id }}', 'on-run-end', '{{ schemas | sort | join(" ") }}')
{%- endmacro %}
