{{ config(enabled=var('is_wanted')) }}
select 1 as id
