-- Reads only.
select wanted.type
from unnest(%(types)s::text[]) as wanted (type)
where to_regtype(wanted.type) is null
