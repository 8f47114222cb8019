-- The drill's source tables, as the shop's application. Rows come in pairs that are inserted, changed, moved and deleted
-- together and whose amounts cancel out: whoever sees half of a change sees a pair that does not add up to zero.
create sequence versions;

create sequence pairs start 10001;

create type mood as enum ('fine');

create function stamp_version() returns trigger language plpgsql as $$
begin
    new.version := nextval('public.versions');
    return new;
end
$$;

do $$
declare
    name text;
begin
    foreach name in array array[{names}] loop
        execute format(
            'create table public.%1$I (
                pair bigint, half int, parent bigint, amount numeric not null, body text,
                version bigint not null, updated_at timestamptz, primary key (pair, half)
            );
            create trigger stamp_version before insert or update on public.%1$I
            for each row execute function public.stamp_version();', name);
    end loop;
end
$$;

alter table notes drop constraint notes_pkey;

alter table shapes add mood mood not null default 'fine';

alter table visits alter updated_at type timestamp;

alter table blobs alter body set storage external;

-- Two views: of the rows of one table, which a cursor shows, and of two.
alter table sold rename to sold_rows;

create view sold as select * from sold_rows;

alter table rated rename to rated_rows;

create table rates (number int primary key, rate int not null);

insert into rates select number, 2 from generate_series(0, 4) as number;

create view rated as
select pair, half, parent, amount * rate as amount, body, version, updated_at
from rated_rows inner join rates on number = pair % 5;

create function in_cents(amount numeric) returns bigint immutable language sql as 'select (amount * 100)::bigint';

create function rate_of(pair bigint) returns int stable language sql
as 'select rate from public.rates where number = pair % 5';

grant execute on function in_cents(numeric), rate_of(bigint) to shop_reader;
