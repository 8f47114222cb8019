-- Reads only. Sequences whose next number a table of the ledger already holds: rows came without them, as by logical
-- replication.
with loads as (
    select
        max(load_id) as load_id,
        max(extraction_id) as extraction_id
    from _elt.load_ledger
),

extractions as (
    select
        max(extraction_id) as extraction_id,
        max(after_load_id) as after_load_id
    from _elt.extraction
),

ranges as (
    select max(extraction_id) as extraction_id
    from _elt.extraction_range
),

numbers as (
    select
        '_elt.load_ledger_load_id_seq' as sequence_name,
        load_sequence.last_value + cast(load_sequence.is_called as integer) as next_number,
        greatest(loads.load_id, extractions.after_load_id) as taken
    from _elt.load_ledger_load_id_seq as load_sequence
    cross join loads
    cross join extractions
    union all
    select
        '_elt.extraction_extraction_id_seq' as sequence_name,
        extraction_sequence.last_value + cast(extraction_sequence.is_called as integer) as next_number,
        greatest(loads.extraction_id, extractions.extraction_id, ranges.extraction_id) as taken
    from _elt.extraction_extraction_id_seq as extraction_sequence
    cross join loads
    cross join extractions
    cross join ranges
)

select
    sequence_name,
    taken
from numbers
where next_number <= taken
