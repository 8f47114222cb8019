"""All that knows Airflow: tasks, the rendered graph, maintenance, alerts, the page."""
