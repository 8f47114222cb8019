"""Databases in the shape of well-known ones: names, types, keys and habits of each, and a few rows."""

from __future__ import annotations

from itertools import product

RENTAL = """
create type rating as enum ('G', 'PG', 'PG-13', 'R', 'NC-17');
create domain year as integer check (value between 1901 and 2155);
create function last_updated() returns trigger language plpgsql as 'begin new.last_update = now(); return new; end';
create table language (language_id serial primary key, name char(20) not null,
    last_update timestamptz not null default now());
create table category (category_id serial primary key, name text not null,
    last_update timestamptz not null default now());
create table actor (actor_id serial primary key, first_name text, last_name text,
    last_update timestamptz not null default now());
create table film (film_id serial primary key, title text not null, release_year year, language_id int not null
    references language, original_language_id int references language, rental_rate numeric(4, 2) default 4.99,
    rating rating default 'G', special_features text[], fulltext tsvector,
    last_update timestamptz not null default now());
create table film_actor (actor_id int references actor, film_id int references film,
    last_update timestamptz not null default now(), primary key (actor_id, film_id));
create table film_category (film_id int references film, category_id int references category,
    last_update timestamptz not null default now(), primary key (film_id, category_id));
create table country (country_id serial primary key, country text, last_update timestamptz not null default now());
create table city (city_id serial primary key, city text, country_id int not null references country,
    last_update timestamptz not null default now());
create table address (address_id serial primary key, address text, address2 text, city_id int not null references city,
    last_update timestamptz not null default now());
create table store (store_id serial primary key, manager_staff_id int not null, address_id int references address,
    last_update timestamptz not null default now());
create table staff (staff_id serial primary key, store_id int not null references store, picture bytea, active boolean,
    last_update timestamptz not null default now());
create table customer (customer_id serial primary key, store_id int references store, email text, create_date date,
    active int, last_update timestamptz default now());
create table inventory (inventory_id serial primary key, film_id int references film, store_id int references store,
    last_update timestamptz not null default now());
create table rental (rental_id serial primary key, inventory_id int references inventory, return_date timestamptz,
    customer_id int references customer, last_update timestamptz not null default now());
create table payment (payment_id serial, customer_id int not null references customer, amount numeric(5, 2),
    payment_date timestamptz not null, primary key (payment_date, payment_id)) partition by range (payment_date);
create table payment_p2022_01 partition of payment for values from ('2022-01-01') to ('2022-02-01');
create table payment_p2022_02 partition of payment for values from ('2022-02-01') to ('2022-03-01');
create view film_list as select film_id, title from film;
create materialized view rental_by_category as select category_id, count(*) from film_category group by 1;
create trigger last_updated before update on film for each row execute function last_updated();
insert into language (name) values ('English'); insert into category (name) values ('Action');
insert into actor (first_name) values ('PENELOPE'), (null);
insert into film (title, release_year, language_id, special_features, fulltext)
    values ('ACADEMY DINOSAUR', 2006, 1, '{Trailers,"Deleted Scenes"}', to_tsvector('academy')),
        ('ACE', null, 1, null, '');
insert into film_actor values (1, 1), (2, 1); insert into film_category values (1, 1);
insert into country (country) values ('Réunion'); insert into city (city, country_id) values ('Saint-Denis', 1);
insert into address (city_id) values (1); insert into store (manager_staff_id, address_id) values (1, 1);
insert into staff (store_id, picture, active) values (1, '\\x89504e470d0a', true);
insert into customer (store_id, last_update) values (1, now()), (1, null);
insert into inventory (film_id, store_id) values (1, 1); insert into rental (inventory_id, customer_id) values (1, 1);
insert into payment (customer_id, amount, payment_date) values (1, 2.99, '2022-01-24'), (2, 0.99, '2022-02-14');
"""
"""A shop that rents films: an enum, a domain, partitions, a key in a circle that is none, triggers that keep stamps."""


def music() -> str:
    """Names with capitals, in quotes; no stamps at all."""
    entities = {
        **{name: '"Name" varchar(120)' for name in ("Artist", "Genre", "MediaType", "Playlist")},
        "Album": '"Title" varchar(160) not null, "ArtistId" int not null references "Artist"',
        "Employee": '"Title" varchar(30), "ReportsTo" int references "Employee", "BirthDate" timestamp',
        "Customer": '"Email" varchar(60) not null, "SupportRepId" int references "Employee"',
        "Invoice": '"CustomerId" int not null references "Customer", "Total" numeric(10, 2) not null',
        "Track": '"Name" varchar(200), "AlbumId" int references "Album", "GenreId" int references "Genre"',
        "InvoiceLine": '"InvoiceId" int not null references "Invoice", "TrackId" int not null references "Track"',
    }
    made = [f'create table "{name}" ("{name}Id" int primary key, {columns});' for name, columns in entities.items()]
    made.append(
        'create table "PlaylistTrack" ("PlaylistId" int references "Playlist", "TrackId" int references "Track",'
    )
    made.append('primary key ("PlaylistId", "TrackId"));')
    rows = {name: "1, 'Ünï'" for name in ("Artist", "Genre", "MediaType", "Playlist")}
    rows |= {"Album": "1, 'A', 1", "Employee": "1, 'Boss', null, now()", "Customer": "1, 'a@b', 1"}
    rows |= {"Invoice": "1, 1, 3.98", "Track": "1, 'T', 1, 1", "InvoiceLine": "1, 1, 1", "PlaylistTrack": "1, 1"}
    return "\n".join(made + [f'insert into "{name}" values ({values});' for name, values in rows.items()])


def bicycle() -> str:
    """68 tables in five schemas that refer to each other: domains, stamps without a zone, keys of several columns."""
    schemas = {"person": 13, "humanresources": 6, "production": 25, "purchasing": 5, "sales": 19}
    made = ['create domain "Name" varchar(50); create domain "Flag" boolean not null;']
    for number, (schema, count) in enumerate(schemas.items()):
        made.append(f"create schema {schema};")
        for index in range(count):
            name = f"{schema}.{schema[:4]}entity{index}"
            stamp = "modifieddate timestamp not null default now()"
            columns = (
                f'name "Name" not null, isactive "Flag" default true, rowguid uuid default gen_random_uuid(), {stamp}'
            )
            parent = f"parentid int references person.persentity{index % 13 // 4 * 4}" if number else "parentid int"
            if index % 4 == 3:
                before = f"{schema}.{schema[:4]}entity{index - 1}"
                made.append(f"alter table {before} add unique (id, name);")
                made.append(
                    f'create table {name} (id int, name "Name", line int, {parent}, {stamp}, primary key (id, line),'
                    f" foreign key (id, name) references {before} (id, name));"
                    f"insert into {name} values (1, 'Ünï', 1, 1), (2, null, 2, null);"
                )
            else:
                made.append(f"create table {name} (id serial primary key, {parent}, {columns});")
                made.append(f"insert into {name} (parentid, name) values (1, 'Ünï'), (null, 'Ball');")
    return "\n".join(made)


def billing() -> str:
    """138 tables by Rails: stamps without a zone that are in UTC, columns called type, keys of two kinds."""
    made = [
        "create table schema_migrations (version varchar not null primary key);"
        "create table ar_internal_metadata (key varchar primary key, value varchar, created_at timestamp(6) not null,"
        " updated_at timestamp(6) not null);"
        "create type plan_interval as enum ('weekly', 'monthly'); insert into schema_migrations values ('20260101');"
    ]
    for index in range(136):
        key = "id uuid default gen_random_uuid() not null primary key" if index % 2 else "id bigserial primary key"
        refers = (
            f"owner_id {'uuid' if (index - 2) % 2 else 'bigint'} references table_{index - 2}s," if index > 1 else ""
        )
        made.append(
            f"create table table_{index}s ({key}, {refers} type varchar, status integer default 0 not null,"
            " interval plan_interval, properties jsonb default '{}' not null, amount_cents bigint,"
            " created_at timestamp(6) not null, updated_at timestamp(6) not null, deleted_at timestamp(6));"
            f"create index on table_{index}s (updated_at);"
            f"insert into table_{index}s (type, interval, created_at, updated_at) values"
            " ('Charge::Standard', 'weekly', now() at time zone 'UTC', now() at time zone 'UTC'),"
            " (null, null, now() at time zone 'UTC', now() at time zone 'UTC');"
        )
    return "\n".join(made)


def encyclopaedia() -> str:
    """371 tables: aliases, annotations and tags of each entity, links between each two, stamps that may be NULL."""
    entities = ["area", "artist", "event", "genre", "instrument", "label", "place", "recording", "release", "series"]
    entities += ["release_group", "url", "work"]
    made = ["create schema encyclopaedia; set search_path to encyclopaedia, public;"]
    stamp = "edits_pending int not null default 0, last_updated timestamptz default now()"
    tables = {name: f"id serial primary key, gid uuid not null, name varchar not null, {stamp}" for name in entities}
    for one, other in product(entities, repeat=2):
        if one <= other:
            tables[f"l_{one}_{other}"] = (
                f"id serial primary key, link int, entity0 int not null references {one},"
                f" entity1 int not null references {other}, link_order int not null default 0, {stamp}"
            )
    kinds = ["alias", "annotation", "attribute", "gid_redirect", "meta", "rating_raw", "tag", "tag_raw", "type"]
    kinds += [
        "alias_type",
        "attribute_type",
        "attribute_value",
        "first_date",
        "isni",
        "ipi",
        "subscription",
        "deletion",
    ]
    for entity, kind in product(entities, kinds):
        tables[f"{entity}_{kind}"] = (
            f"{entity} int not null references {entity}, editor int, {stamp}, primary key ({entity}, editor)"
            if kind in ("tag", "tag_raw", "rating_raw", "subscription")
            else f"id serial primary key, {entity} int references {entity}, name text, locale text, {stamp}"
        )
    for index in range(371 - len(tables)):
        tables[f"editor_{index}"] = f"id int not null, note text, {stamp}"
    made += [f"create table {name} ({columns});" for name, columns in tables.items()]
    made += [f"insert into {name} (gid, name) values (gen_random_uuid(), 'Ünï');" for name in entities]
    made += [f"insert into l_{one}_{one} (entity0, entity1, last_updated) values (1, 1, null);" for one in entities]
    made += [
        f"insert into {name}_tag values (1, 1); insert into {name}_alias (name) values ('x');" for name in entities
    ]
    return "\n".join(made)


SHAPES = {
    "rental": (RENTAL, 15),
    "music": (music(), 11),
    "bicycle": (bicycle(), 68),
    "billing": (billing(), 138),
    "encyclopaedia": (encyclopaedia(), 371),
}
"""SQL that makes each, and of how many tables."""
