-- Reads only. How many parts of a relation got new files after the transaction's snapshot: to the snapshot they are
-- empty. The catalog is read as of the snapshot, the function tells what is now.
select count(*)
from pg_class
where
    (
        pg_class.oid = to_regclass(%(relation)s)
        or pg_class.oid in (
            select part.relid
            from pg_partition_tree(to_regclass(%(relation)s)) as part
        )
    )
    and pg_class.relfilenode <> pg_relation_filenode(pg_class.oid)
