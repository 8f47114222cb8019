-- Rerunnable. Airflow's metadata: its role owns the database and nothing else.
do $$
begin
    if not exists (select from pg_roles where rolname = 'airflow') then
        create role airflow login;
    end if;
end
$$;

alter database airflow owner to airflow;
alter schema public owner to airflow;
revoke all on database airflow from public;
