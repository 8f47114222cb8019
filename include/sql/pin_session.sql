-- Rerunnable: settings of this session alone. Text forms that both servers read back to the same bytes; and the server
-- notices within two minutes that a client's machine is gone, with the locks that the next attempt waits for.
select set_config(setting.name, setting.value, false)
from (
    values
    ('datestyle', 'ISO, YMD'),
    ('intervalstyle', 'postgres'),
    ('timezone', 'UTC'),
    ('extra_float_digits', '1'),
    ('bytea_output', 'hex'),
    ('lc_monetary', 'C'),
    ('xmloption', 'content'),
    ('array_nulls', 'on'),
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
    ('idle_in_transaction_session_timeout', '1h'),
    ('default_transaction_isolation', 'read committed'),
    ('default_transaction_read_only', %(read_only)s)
) as setting (name, value)
-- PostgreSQL 17 and later.
where setting.name <> 'transaction_timeout' or current_setting(setting.name, true) is not null
