-- Rerunnable: settings of this session alone, and only where no pooler stands in between, or it lends this server to
-- nobody else. Text forms that both servers read back to the same bytes, all that a value or a row of a result depends
-- on, and limits: the server notices within two minutes that a client's machine is gone, with the locks it held.
with pinned (name, value) as (
    values
    ('datestyle', 'ISO, YMD'),
    ('intervalstyle', 'postgres'),
    ('timezone', 'UTC'),
    ('timezone_abbreviations', 'Default'),
    ('extra_float_digits', '1'),
    ('bytea_output', 'hex'),
    ('lc_monetary', 'C'),
    ('lc_numeric', 'C'),
    ('lc_time', 'C'),
    ('xmloption', 'content'),
    ('xmlbinary', 'base64'),
    ('array_nulls', 'on'),
    ('backslash_quote', 'safe_encoding'),
    ('quote_all_identifiers', 'off'),
    ('standard_conforming_strings', 'on'),
    ('transform_null_equals', 'off'),
    ('default_text_search_config', 'pg_catalog.simple'),
    ('gin_fuzzy_search_limit', '0'),
    ('restrict_nonsystem_relation_kind', ''),
    ('exit_on_error', 'off'),
    ('client_encoding', 'UTF8'),
    ('search_path', 'pg_catalog'),
    ('row_security', 'off'),
    ('synchronous_commit', 'on'),
    ('tcp_keepalives_idle', '60s'),
    ('tcp_keepalives_interval', '10s'),
    ('tcp_keepalives_count', '6'),
    ('lock_timeout', '60s'),
    ('statement_timeout', '6h'),
    ('transaction_timeout', '0'),
    ('idle_session_timeout', '0'),
    ('idle_in_transaction_session_timeout', '1h'),
    ('default_transaction_isolation', 'read committed'),
    ('default_transaction_deferrable', 'off'),
    ('default_transaction_read_only', %(read_only)s)
),

-- What only a superuser may set, and could have set for our role.
needed (name, value) as (
    values
    ('zero_damaged_pages', 'off'),
    ('ignore_checksum_failure', 'off'),
    ('session_replication_role', case %(read_only)s when 'off' then 'origin' end)
)

select
    pg_backend_pid() as pid,
    current_database() as database,
    session_user as role,
    array(
        select current_setting(asked.name, true)
        from unnest(cast(%(asked)s as text[])) with ordinality as asked (name, place)
        order by asked.place
    ) as given,
    array(
        select needed.name
        from needed
        where current_setting(needed.name, true) <> needed.value
    ) as unsafe,
    array(
        select set_config(pinned.name, pinned.value, false)
        from pinned
        where
            (pg_backend_pid() = %(pid)s or %(is_ours)s)
            -- Null where they came with a later version.
            and current_setting(pinned.name, true) <> pinned.value
    ) as pinned
