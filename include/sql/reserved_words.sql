-- Reads only. Words that mean something else to PostgreSQL where they stand for a column without quotes.
select word
from pg_get_keywords()
where catcode <> 'U'
