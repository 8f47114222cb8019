select id, name, price from {{ source('shop', 'products') }}
