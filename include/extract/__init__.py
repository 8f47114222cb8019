"""Extract: horizon, window and a stream of COPY blocks from the source into a staging table. Never imports Airflow."""
