{% set begin = modules.datetime.datetime.now(modules.pytz.utc) - modules.datetime.timedelta(days=2) %}
{{ config(
    materialized='incremental', incremental_strategy='microbatch', unique_key='day', event_time='day', batch_size='day',
    begin=begin.strftime('%Y-%m-%d'), tags=['late']
) }}
select day, sum(back) as back from {{ ref('visits') }} group by day
