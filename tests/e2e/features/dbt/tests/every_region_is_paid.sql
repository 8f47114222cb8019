select * from {{ ref('payments_by_region') }} where amount <= 0
