{{ config(access='private', group='finance') }}
select amount, {{ package.shout('kind') }} as kind from {{ source('legacy', 'payments') }}
