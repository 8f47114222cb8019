select 1 as wrong where now() < '2024-01-01'
