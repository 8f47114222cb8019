-- Rerunnable: for this transaction alone. At least 256 MB (in kB) to sort keys in; a larger setting stays.
select set_config(name, cast(greatest(cast(setting as bigint), 262144) as text), true)
from pg_settings
where name = 'maintenance_work_mem'
