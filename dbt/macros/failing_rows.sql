{#
What dbt's own tests keep of rows that fail is a value and a count. These find the same, and keep the rows themselves:
whole, so with their key. A test then fails for as many rows as have to be corrected.
#}

{% macro postgres__test_accepted_values(model, column_name, values, quote=True) %}

select *
from {{ model }}
where {{ column_name }} not in (
    {%- for value in values %}
    {{ "'" ~ value ~ "'" if quote else value }}{{ "," if not loop.last }}
    {%- endfor %}
)

{% endmacro %}


{% macro postgres__test_relationships(model, column_name, to, field) %}

with child as (
    select *
    from {{ model }}
    where {{ column_name }} is not null
),

parent as (
    select {{ field }} as field_of_parent
    from {{ to }}
)

select child.*
from child
left join parent on {{ column_name }} = parent.field_of_parent
where parent.field_of_parent is null

{% endmacro %}


{% macro postgres__test_unique(model, column_name) %}

select *
from {{ model }}
where {{ column_name }} in (
    select {{ column_name }}
    from {{ model }}
    where {{ column_name }} is not null
    group by {{ column_name }}
    having count(*) > 1
)

{% endmacro %}
