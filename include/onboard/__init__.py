"""`make onboard`: the dbt source entry, staging model, tests and grants of tables that exist in a source database."""
