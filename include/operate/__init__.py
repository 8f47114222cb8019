"""What an operator asks and does: plan, reconcile, rewind, health. Nothing here knows Airflow."""
