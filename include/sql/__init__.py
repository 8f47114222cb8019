"""The SQL of extract and load: one statement a file, placeholders in psycopg's two forms.

`%(name)s` is a bound value, `{name}` an identifier that `sql.SQL.format` quotes.
"""

from functools import cache
from pathlib import Path

from psycopg import sql


@cache
def statement(name: str) -> sql.SQL:
    """The statement of `include/sql/<name>.sql`."""
    return sql.SQL(Path(__file__).with_name(f"{name}.sql").read_text(encoding="utf-8"))
