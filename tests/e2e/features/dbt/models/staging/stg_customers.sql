select id, name, email, updated_at from {{ source('shop', 'customers') }}
