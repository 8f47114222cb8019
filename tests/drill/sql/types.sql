create schema if not exists raw_shop authorization raw_loader;

-- A person makes the type, as an extract's message says; it is the loader's own here, which adds the later labels.
create type public.mood as enum ('fine');

alter type public.mood owner to raw_loader;
