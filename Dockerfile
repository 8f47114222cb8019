# One image for every Airflow service and for dbt: the DAGs, the dbt project and its manifest, parsed here, so that
# nothing is parsed, installed or looked up when a container starts. Packages come from requirements.lock, by hash.
ARG AIRFLOW=apache/airflow:3.3.2-python3.13

FROM ${AIRFLOW} AS packages
WORKDIR /opt/airflow
COPY --chown=50000:0 requirements.txt requirements-excluded.txt requirements.lock ./
# The lock also names what only a checkout needs; as constraints it gives versions and hashes of what is asked for.
# An environment of its own, because the base image's packages are of other versions (docs/decisions.md).
RUN --mount=type=cache,target=/tmp/uv,uid=50000 \
    python -m venv --without-pip venv \
 && UV_CACHE_DIR=/tmp/uv UV_LINK_MODE=copy uv pip install --quiet --python venv/bin/python --compile-bytecode \
        --require-hashes --requirements requirements.txt --constraints requirements.lock \
        --excludes requirements-excluded.txt \
 && rm -rf venv/lib/python3*/site-packages/pandas/tests

FROM packages AS manifest
COPY include/__init__.py include/connecting.py include/errors.py include/files.py include/retries.py include/
COPY include/patches include/patches
COPY include/dbt include/dbt
COPY --chown=50000:0 dbt dbt
# dbt fetches a package of a git repository with it.
USER root
RUN if grep -qsE '^ *- *git:' dbt/packages.yml dbt/dependencies.yml && ! command -v git; then \
        apt-get update -qq && apt-get install -qq --no-install-recommends git; \
    fi
USER 50000:0
RUN venv/bin/python -m include.dbt.packages \
 && DBT_TARGET_PATH=/opt/airflow/manifest venv/bin/python -m include.dbt.project

FROM ${AIRFLOW}
ENV PATH=/opt/airflow/venv/bin:${PATH} \
    VIRTUAL_ENV=/opt/airflow/venv \
    PYTHONPATH=/opt/airflow \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CONNECTION_CHECK_MAX_COUNT=0 \
    AIRFLOW__API__EXPOSE_CONFIG=False \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__COSMOS__ENABLE_TELEMETRY=False \
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False \
    AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT=60 \
    DBT_PROFILES_DIR=/opt/airflow/dbt \
    DBT_PROJECT_DIR=/opt/airflow/dbt \
    DBT_SEND_ANONYMOUS_USAGE_STATS=false \
    DBT_TARGET_PATH=/opt/airflow/manifest \
    DBT_VERSION_CHECK=false \
    SCARF_ANALYTICS=false \
    XDG_RUNTIME_DIR=/tmp
WORKDIR /opt/airflow
# A new volume mounted here takes over its owner.
RUN mkdir -p logs
# Owned by root: a task cannot change the code that runs next. What changes least comes first.
COPY --from=packages --chown=0:0 /opt/airflow/venv venv
# Empty, or Airflow writes one with all its settings, secrets of the environment among them.
COPY LICENSE NOTICE deploy/airflow.cfg deploy/healthcheck.py ./
COPY --from=manifest --chown=0:0 /opt/airflow/manifest manifest
COPY --from=manifest --chown=0:0 /opt/airflow/dbt dbt
COPY plugins plugins
COPY include include
COPY dags dags
USER 50000:0
HEALTHCHECK --interval=15s --timeout=20s --start-period=90s --retries=4 CMD ["python", "/opt/airflow/healthcheck.py"]
# Last, because every commit changes them.
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="elt" \
      org.opencontainers.image.description="Postgres to Postgres in one Airflow graph: extract, load, dbt" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name="apache/airflow:3.3.2-python3.13" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
