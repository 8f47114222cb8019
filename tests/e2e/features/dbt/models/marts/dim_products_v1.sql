select id, name from {{ ref('large') }}
