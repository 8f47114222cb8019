-- What `make plan` tells a person to run; the loader adds the labels that come later.
create type public.mood as enum ('fine');

alter type public.mood owner to raw_loader;
