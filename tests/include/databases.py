"""Databases that nobody designed: from a seed, every kind of name, type, key and relation that onboarding meets."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from psycopg import sql

from include.postgres.sessions import Connection

WORDS = (
    *"orders user group values timestamp position primary no on null yes createdAt userId user_id is_deleted".split(),
    *"loaded_at deleted_at name id status type source renamed 日本 имя it's %s a.b *star &and 1st ñ _private".split(),
    *"category_name select left row interval $dollar back\\slash 😀 true ~ ?".split(),
    *(
        "Order Items",
        "Ünï cødé",
        'a"b',
        "{{ 7*7 }}",
        "{{ env_var('HOME') }}",
        "{% if %}",
        "two\nlines",
        "tab\there",
        " ",
    ),
    *("x" * 63, "Y" * 63, "with: colon # hash", "- dash"),
)

TYPES = {
    "smallint": "n",
    "bigint": "n::bigint * 1000000007",
    "numeric(8, 2)": "n / 7.0",
    "numeric": "n / 7.0",
    "real": "n / 3.0",
    "double precision": "case n when 1 then 'NaN'::float8 when 2 then '-Infinity'::float8 else n / 3.0 end",
    "varchar(5)": "'v' || n % 100",
    "char(4)": "'c' || n % 10",
    "text": "repeat('ü\n\\t\"', n % 4)",
    "boolean": "n % 2 = 0",
    "timestamptz": "timestamptz '2026-01-01' + n * interval '1.000001 hour'",
    "timestamp(0)": "timestamp '2026-01-01' + n * interval '1 hour'",
    "date": "case n when 1 then date '-infinity' else date '2026-01-01' + n end",
    "time": "time '10:00' + n * interval '1 second'",
    "interval": "n * interval '1 month 2 days'",
    "jsonb": "jsonb_build_object('n', n)",
    "json": "'{\"n\":  ' || n || '}'",
    "bytea": "sha256(n::text::bytea)",
    "uuid": "md5(n::text)::uuid",
    "int[]": "array[n, null, n + 1]",
    "text[]": "array['a,b', null, n::text]",
    "int4range": "int4range(n, n + 5)",
    "inet": "inet '10.0.0.0' + n",
    "bit(5)": "n::bit(5)",
    "tsvector": "to_tsvector('simple', 'a b ' || n)",
    "point": "point(n, n)",
    '"char"': "'x'",
    "regclass": "'pg_class'",
    "zoo.mood": "(array['calm', 'it''s \"odd\"', '{{ 7*7 }}'])[n % 3 + 1]",
    "zoo.plain_mood": "(array['calm', 'cross'])[n % 2 + 1]",
    "zoo.mood[]": "array['calm']",
    "zoo.flag": "n % 2 = 0",
    "zoo.small": "n % 90 + 1",
    "zoo.smaller": "n % 90 + 1",
    "zoo.word": "'w' || n % 10",
    "zoo.pair": "cast(row(n, 'x') as zoo.pair)",
}
"""Types, and values of row `n` as SQL: a text is assigned to the column's type."""

SHARED = """
create schema zoo;
create schema "Sales Dept";
create schema hr;
create type zoo.mood as enum ('calm', 'it''s "odd"', '{{ 7*7 }}');
create type zoo.plain_mood as enum ('calm', 'cross');
create type zoo.pair as (a int, b text);
create domain zoo.flag as boolean;
create domain zoo.small as int check (value > 0);
create domain zoo.smaller as zoo.small;
create domain zoo.word as varchar(3);
"""

CURSORS = ("timestamptz not null default now()", "timestamptz", "timestamp not null default (now() at time zone 'UTC')")
ROWS = 12


def quoted(*names: str) -> str:
    """Names as SQL writes them."""
    return sql.Identifier(*names).as_string()


@dataclass
class Made:
    """A table; `columns` of values by name, `key` what identifies a row, `number` the column that counts rows."""

    schema: str
    name: str
    number: str
    columns: dict[str, str] = field(default_factory=dict)
    cursor: str | None = None
    is_referable: bool = True

    @property
    def relation(self) -> str:
        return quoted(self.schema, self.name)


class Database:
    """Made by a seed; `change` is the application's next day."""

    def __init__(self, app: Connection, seed: int, size: int) -> None:
        self.app, self.random = app, random.Random(seed)
        self.tables: list[Made] = []
        app.execute("set timezone to 'UTC'")
        app.execute(SHARED)
        for _ in range(size):
            self._table()
        self._relations()
        self._special()

    def _name(self, taken: set[str]) -> str:
        free = [word for word in WORDS if word not in taken]
        name = self.random.choice(free) if free and self.random.random() < 0.8 else f"plain_{len(taken)}"
        taken.add(name)
        return name

    def _table(self) -> None:
        schema = self.random.choice(["public", "zoo", "Sales Dept", "hr"])
        name = self._name({made.name for made in self.tables if made.schema == schema})
        taken: set[str] = set()
        made = Made(schema, name, self._name(taken))
        parts = [f"{quoted(made.number)} int not null"]
        for type_ in self.random.sample(sorted(TYPES), self.random.randint(1, 8)):
            column = self._name(taken)
            made.columns[column] = TYPES[type_]
            parts.append(f"{quoted(column)} {type_}")
        if self.random.random() < 0.5:
            made.cursor = self.random.choice(["updated_at", "last_update", "ModifiedAt"])
            parts.append(f"{quoted(made.cursor)} {self.random.choice(CURSORS)}")
        if self.random.random() < 0.3:
            parts.append(f"{quoted(self._name(taken))} int generated always as ({quoted(made.number)} * 2) stored")
        key, number = self.random.randrange(6), quoted(made.number)
        made.is_referable = key < 4
        if key < 2:
            parts.append(f"primary key ({number})")
        elif key == 2:
            parts.append(f"extra int not null default 1, unique ({number}), primary key ({number}, extra)")
        elif key == 3:
            parts.append(f"note text, primary key ({number}) include (note)")
        self.app.execute(f"create table {made.relation} ({', '.join(parts)})")
        comment = self.random.choice(["{{ env_var('HOME') }} and {% raw %}", 'A "quoted": text # of\nlines', "Plain."])
        self.app.execute(sql.SQL("comment on table {} is {}").format(sql.SQL(made.relation), comment))
        column = next(iter(made.columns))
        self.app.execute(
            sql.SQL("comment on column {}.{} is {}").format(sql.SQL(made.relation), sql.Identifier(column), comment)
        )
        self.tables.append(made)
        self.insert(made, 1, ROWS)

    def insert(self, made: Made, first: int, last: int) -> None:
        names = ", ".join(map(quoted, [made.number, *made.columns]))
        values = []
        for value in made.columns.values():
            values.append(f"case when n % 5 = 4 then null else {value} end" if self.random.random() < 0.5 else value)
        columns = self.app.execute(
            "select format_type(atttypid, atttypmod) from pg_attribute "
            "where attrelid = %s::regclass and attname = any(%s) order by array_position(%s::text[], attname::text)",
            (made.relation, [*made.columns], [*made.columns]),
        ).fetchall()
        cast = [f"cast({value} as {type_})" for value, (type_,) in zip(values, columns, strict=True)]
        rows = f"select {', '.join(['n', *cast])} from generate_series({first}, {last}) n"
        self.app.execute(f"insert into {made.relation} ({names}) {rows}")

    def _relations(self) -> None:
        """Foreign keys, across schemas and in circles."""
        referable = [made for made in self.tables if made.is_referable]
        for number, made in enumerate(self.tables):
            if referable and self.random.random() < 0.7:
                parent, column = self.random.choice(referable), f"Ref {number}"
                self.app.execute(
                    f"alter table {made.relation} add {quoted(column)} int references {parent.relation} "
                    f"({quoted(parent.number)}) on delete cascade"
                )
                self.app.execute(f"update {made.relation} set {quoted(column)} = {quoted(made.number)} % 5 + 1")
                for _ in range(self.random.choice([0, 0, 2])):  # declared more than once
                    self.app.execute(
                        f"alter table {made.relation} add foreign key ({quoted(column)}) "
                        f"references {parent.relation} ({quoted(parent.number)}) on delete cascade"
                    )

    def _special(self) -> None:
        self.app.execute(
            """
            create table hr.parts (id int, at date, primary key (id, at)) partition by range (at);
            create table hr.parts_1 partition of hr.parts for values from ('2026-01-01') to ('2027-01-01');
            create table hr.parts_rest partition of hr.parts default;
            insert into hr.parts select n, date '2026-12-20' + n from generate_series(1, 30) n;
            create table hr.animals (id int primary key, name text);
            create table hr.dogs (bark text) inherits (hr.animals);
            insert into hr.animals values (1, 'a'); insert into hr.dogs values (1, 'b', 'c');
            create table hr.hidden (id int primary key, t text, updated_at timestamptz[]);
            insert into hr.hidden values (1, 'x', '{2026-01-01,infinity}');
            alter table hr.hidden enable row level security;
            create view hr.seen as select * from hr.hidden;
            """
        )

    def change(self) -> None:
        """Rows come, change and go, and so do columns and values of enums."""
        self.app.execute("alter type zoo.plain_mood add value 'glad' before 'cross'")
        for made in self.tables:
            stamp = f", {quoted(made.cursor)} = default" if made.cursor else ""
            where = f"where {quoted(made.number)} in (3, 7)"
            column = next(iter(made.columns))
            self.app.execute(f"update {made.relation} set {quoted(column)} = null{stamp} {where}")
            self.app.execute(f"delete from {made.relation} where {quoted(made.number)} = 11")
            self.insert(made, ROWS + 1, ROWS + 3)
            for column in [name for name, value in made.columns.items() if value == TYPES["zoo.plain_mood"]]:
                where = f"where {quoted(made.number)} = {ROWS + 1}"
                self.app.execute(f"update {made.relation} set {quoted(column)} = 'glad'{stamp} {where}")
            if self.random.random() < 0.3:
                self.app.execute(f"alter table {made.relation} add {quoted('Added {{ later }}')} int default 7")
