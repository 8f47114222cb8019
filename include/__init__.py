"""How the pipeline does its work. Imports run one way: dags → include; nothing here imports a DAG."""
