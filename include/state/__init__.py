"""State in the warehouse: the ledger of loads, and the extractions under way. Never imports Airflow."""
