"""Load: publish a staged batch in raw together with its ledger row, in one transaction. Never imports Airflow."""
