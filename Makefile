# Every target works on a machine with GNU make and Python 3.11–3.13; those under "In containers" and `test-containers` also need Docker.

SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCAL := $(BIN)/python -m include.local
export PYTHONUNBUFFERED := 1
# A shell that forbids it would have each process compile 2,500 modules anew: 6 s of CPU instead of 3.
export PYTHONDONTWRITEBYTECODE :=

# What a person types reaches programs in the environment, as it is: neither make nor a shell reads it.
TYPED := ARGS CMD FULL_REFRESH PYTHON SELECT SERVICE VARS VOLUMES WORKERS
TYPED += $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
$(foreach name,$(TYPED),$(if $(filter undefined,$(origin $(name))),,$(eval override export $(name) := $$(value $(name)))))

.PHONY: help
help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^## /{printf "\n%s\n", substr($$0, 4)} /^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## Run it
# Ctrl-C is no error, of which make would speak.
.PHONY: setup run ui stop clean
# Of what lists dbt's packages, or of packages that none lists any more; where the lists did not change, nothing is done.
PACKAGES := $(wildcard dbt/packages.yml dbt/dependencies.yml dbt/dbt_packages)
setup: $(VENV)/ready ## create .venv from requirements.lock, install the packages of the dbt project
	@$(if $(PACKAGES),$(BIN)/python -m include.dbt.packages,:)

run: setup ## run the pipeline once, on PostgreSQL that it brings up
	@$(LOCAL) run || [ $$? -eq 130 ]

ui: setup ## Airflow's UI and scheduler on the same state, until Ctrl-C (UI_PORT=8080)
	@$(LOCAL) ui || [ $$? -eq 130 ]

stop: setup ## stop the local PostgreSQL server
	@$(LOCAL) stop

clean: setup ## stop the server and remove .local
	@$(LOCAL) clean

## Look inside
.PHONY: airflow psql dsn-warehouse
airflow: setup ## any Airflow command: make airflow CMD="dags list-import-errors --local"
	@$(LOCAL) exec airflow @CMD

psql: setup ## a shell on the warehouse (CMD="select 1": one statement)
	@$(LOCAL) psql $(if $(CMD),--command "$$CMD")

dsn-warehouse: setup ## print the URI of the warehouse
	@$(LOCAL) dsn-warehouse

# sample shop: begins
.PHONY: dsn-source shop
dsn-source: setup ## print the URI of the shop's database
	@$(LOCAL) dsn-source

shop: setup ## create the sample shop, or change a slice of it, without running the pipeline (ROWS=200000 SEED=42)
	@$(LOCAL) shop

# sample shop: ends

## Look after it
.PHONY: plan reconcile rewind erase onboard yours
COMMAND := $(LOCAL) exec python -m include.orchestrate.commands
plan: setup ## what the next run would read and change, per table; changes nothing (TABLE=erp.orders)
	@$(COMMAND) plan

reconcile: setup ## compare raw with the source, row by row where they differ (TABLE= REPAIR=1)
	@$(COMMAND) reconcile

rewind: setup ## read a table again: TABLE=erp.orders TO=<instant | run id | beginning>
	@$(COMMAND) rewind

erase: setup ## print the statements that take a person out (TABLE=erp.customers KEY="7")
	@$(COMMAND) erase

onboard: setup ## bring a database into the project: SOURCE=erp (INCLUDE="sales.* hr.person" EXCLUDE="*_tmp" TABLES= SCHEMA= CURSOR_ZONE=UTC PREVIEW=1)
	@$(COMMAND) onboard

yours: ## remove the sample; what is left is for databases of your own
	@"$$PYTHON" -m include.yours

## In containers (Docker)
.PHONY: env build up down etl logs ps roles
COMPOSE := docker compose
CONTAINERS := "$$PYTHON" -m include.compose
CELERY := $(filter-out 0,$(WORKERS))
env: ## make .env, or what it lacks: a secret for each service and role
	@$(CONTAINERS) env

build: ## build the image
	@echo "Building the image from requirements.lock, dbt/, include/, plugins/ and dags/"
	@VERSION="$$(git describe --always --dirty 2>/dev/null)" REVISION="$$(git rev-parse HEAD 2>/dev/null)" $(COMPOSE) build

up: ## start databases and Airflow and wait until all are healthy (WORKERS=3 for Celery)
	@echo "Starting three databases and Airflow$(if $(CELERY), with Redis and $$WORKERS Celery workers); healthy in a minute"
	@$(if $(CELERY),EXECUTOR=CeleryExecutor) $(COMPOSE) $(if $(CELERY),--profile celery) up --detach --wait \
		$(if $(CELERY),--scale airflow-worker="$$WORKERS")
	@$(CONTAINERS) schemas
	@$(CONTAINERS) where

etl: ## run the pipeline once in the containers
	@$(CONTAINERS) etl

ps: ## the containers and their health
	@$(COMPOSE) --profile celery ps --all

logs: ## follow the containers' logs (SERVICE=scheduler)
	@$(COMPOSE) --profile celery logs --follow --tail 100 $(if $(SERVICE),"$$SERVICE")

roles: ## apply the databases' grants and the passwords of .env to running containers
	@for database in source-db warehouse-db metadata-db; do \
		echo "Applying roles in $$database" && $(COMPOSE) up --detach --wait --no-deps $$database && \
		$(COMPOSE) exec -T $$database sh /docker-entrypoint-initdb.d/roles.sh || exit 1; \
	done

down: ## stop and remove the containers; the data stays in its volumes (VOLUMES=1 removes it)
	@echo "Stopping and removing the containers and networks; volumes are $(if $(VOLUMES),removed as well,kept)"
	@$(COMPOSE) --profile celery --profile tools down --remove-orphans $(if $(VOLUMES),--volumes)

## dbt alone
.PHONY: dbt-run dbt-test docs
# The target is the one that profiles.yml names, not one of another project.
unexport DBT_TARGET DBT_ENGINE_TARGET
DBT_PROJECT := --project-dir dbt --profiles-dir dbt --profile elt
DBT_FLAGS := $(DBT_PROJECT) $(if $(SELECT),--select "$$SELECT") $(if $(VARS),--vars "$$VARS")
dbt-run: setup ## build snapshots and models (SELECT= VARS= FULL_REFRESH=1)
	@$(LOCAL) exec dbt build --exclude-resource-type test --exclude-resource-type unit_test $(DBT_FLAGS) $(if $(FULL_REFRESH),--full-refresh)

dbt-test: setup ## run the data tests and the unit tests (SELECT= VARS=)
	@$(LOCAL) exec dbt test $(DBT_FLAGS)

docs: setup ## write dbt's documentation site to .local/dbt
	@$(LOCAL) exec dbt docs generate --static $(DBT_PROJECT)
	@echo "Open $${ELT_STATE:-.local}/dbt/static_index.html"

## Work on it
.PHONY: test prove lint fix lock
test: setup ## run all tests that need no Docker, two at a time (ARGS="-k watermark" PG_BINDIR=)
	@PYTEST_ADDOPTS="--numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 20 $$ARGS" $(BIN)/python -m pytest

prove: setup ## write and kill at random, and see that no row is lost (SEED= MINUTES=6 SCENE=)
	@$(BIN)/python -m tests.drill

# sample shop: begins
.PHONY: test-browser screenshots test-containers bench bench-tools
test-browser: setup ## follow the UI in this machine's Chromium or Chrome (CHROMIUM=/path/to/it)
	@PYTEST_ADDOPTS="$$ARGS" $(BIN)/python -m pytest tests/browser

screenshots: setup ## draw the pictures in docs/pictures anew, in the same browser
	@$(BIN)/python -m pytest tests/browser/screenshots.py

test-containers: setup ## bring the containers up beside yours, test them and remove them; fails without Docker
	@PYTEST_ADDOPTS="$$ARGS" $(BIN)/python -m pytest tests/containers

bench: setup ## time loads beside other tools, the graph beside dbt (ONLY="load delta graph parse" ROWS= DELTA= MODELS= REPEAT=3)
	@$(BIN)/python -m benchmarks

bench-tools: setup ## install dlt, ingestr and Sling for `make bench`, each in a venv below .local/bench
	@$(BIN)/python -m benchmarks.tools
# sample shop: ends

lint: setup ## check Python and its types, SQL, workflows and the compose file; changes nothing
	$(BIN)/black --check --quiet .
	$(BIN)/flake8
	$(BIN)/mypy include dags plugins $(wildcard benchmarks) tests
	$(LOCAL) exec sqlfluff lint --disable-progress-bar dbt
	$(BIN)/sqlfluff lint --disable-progress-bar --templater placeholder include deploy
	$(BIN)/zizmor --offline --quiet .github
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml

fix: setup ## format Python and SQL
	$(BIN)/isort --quiet .
	$(BIN)/black .
	$(LOCAL) exec sqlfluff fix --disable-progress-bar dbt
	$(BIN)/sqlfluff fix --disable-progress-bar --templater placeholder include deploy

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock"
lock: setup ## write requirements.lock and the other pins from what asks for them
	@$(COMPILE) --excludes requirements-excluded.txt requirements.txt requirements-dev.txt --output-file requirements.lock
	@for tool in $(basename $(wildcard .ci/*.in benchmarks/requirements/*.in)); do \
		$(COMPILE) $$tool.in --output-file $$tool.txt || exit 1; \
	done

$(VENV)/ready: requirements.lock
	@if [ -L $(VENV) ]; then \
		echo "error: $(VENV) is a link, and making it anew would empty what it leads to; remove the link" >&2; exit 1; \
	fi
	@for python in "$$PYTHON" python3.13 python3.12 python3.11; do \
		if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
			found=$$python; break; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "error: Python 3.11, 3.12 or 3.13 is needed and $$PYTHON is $$("$$PYTHON" --version 2>&1); name one with PYTHON=" >&2; exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv --clear $(VENV) && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement .ci/uv.txt && \
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	@touch $@
