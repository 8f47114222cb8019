with bounds as (
    -- An infinite or future order date must not make an endless calendar; the test of date_key shows it.
    select
        coalesce(min(cast(ordered_at at time zone 'utc' as date)), current_date) as first_date,
        current_date as last_date
    from {{ ref("stg_shop__orders") }}
    where isfinite(ordered_at)
),

days as (
    select cast(days_of_years.midnight as date) as date_key
    from bounds
    cross join
        generate_series(
            date_trunc('year', bounds.first_date),
            date_trunc('year', bounds.last_date) + interval '2 years - 1 day',
            interval '1 day'
        ) as days_of_years (midnight)
)

select
    date_key,
    cast(extract(year from date_key) as integer) as year_number,
    cast(extract(quarter from date_key) as integer) as quarter_number,
    cast(extract(month from date_key) as integer) as month_number,
    to_char(date_key, 'FMMonth') as month_name,
    cast(extract(week from date_key) as integer) as iso_week_number,
    cast(extract(isodow from date_key) as integer) as iso_weekday_number,
    to_char(date_key, 'FMDay') as weekday_name,
    extract(isodow from date_key) in (6, 7) as is_weekend
from days
