-- Reads only. How many parts of a relation got new files after the transaction's snapshot: to the snapshot they are
-- empty. The catalog is read as of the snapshot, the function tells what is now.
with parts as (
    select cast(to_regclass(%(relation)s) as oid) as relid
    union
    select cast(part.relid as oid) as relid
    from pg_partition_tree(to_regclass(%(relation)s)) as part
)

select count(*)
from parts
inner join pg_class on parts.relid = pg_class.oid
where pg_class.relfilenode <> pg_relation_filenode(pg_class.oid)
