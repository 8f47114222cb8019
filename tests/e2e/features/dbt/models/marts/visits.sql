{{ config(event_time='day') }}
select (now() at time zone 'utc')::date - back as day, back from generate_series(0, 2) as back
