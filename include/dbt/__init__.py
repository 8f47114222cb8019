"""The dbt project on disk, and dbt itself: parse, select, run."""
