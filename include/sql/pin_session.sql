-- Rerunnable: settings of this session alone. Text forms that both servers read back to the same bytes.
select
    set_config('datestyle', 'ISO, YMD', false),
    set_config('intervalstyle', 'postgres', false),
    set_config('timezone', 'UTC', false),
    set_config('extra_float_digits', '1', false),
    set_config('bytea_output', 'hex', false),
    set_config('client_encoding', 'UTF8', false),
    set_config('search_path', 'pg_catalog', false),
    set_config('row_security', 'off', false),
    set_config('lock_timeout', '60s', false),
    set_config('statement_timeout', '6h', false),
    set_config('idle_in_transaction_session_timeout', '1h', false),
    set_config('default_transaction_read_only', %(read_only)s, false)
