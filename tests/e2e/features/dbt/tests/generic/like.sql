{% test like(model, column_name, pattern) %}
    select * from {{ model }} where {{ column_name }} not like '{{ pattern }}'
{% endtest %}
