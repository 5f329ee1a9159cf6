# make demo · make test · make check — each sets up what it needs first, in .venv and nowhere else.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
OUT    ?= out/demo
PAYLOADS ?= 1000000

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz check format services clean

help:  ## What can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

demo: $(VENV)/.simulators  ## Six people's watches teach one model over MQTT; the result is out/demo/report.html
	$(BIN)/python -m simulators demo --out $(OUT)

test: $(VENV)/.dev services  ## All tests; those with a broker start their own mosquitto on a free port
	$(BIN)/python -m pytest

fuzz: $(VENV)/.dev  ## Damaged payloads on all cores, for the night: PAYLOADS=1000000, SEED=… to have a run again
	$(BIN)/python -m tests.fuzz --payloads $(PAYLOADS) $(if $(SEED),--seed $(SEED))

check: $(VENV)/.dev  ## Lint, types and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## Mends what a formatter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A system service is neither needed nor started (RUNLEVEL=1): each test starts its own broker and ends it.
services:
	@if command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing mosquitto for the broker tests"; \
		apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends mosquitto >/dev/null; \
	else echo "mosquitto is missing: broker tests will be skipped (sudo apt-get install mosquitto)"; fi

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: apt-get install python3.11-venv, or make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "venv is missing: apt-get install python3.11-venv"; exit 1; }

$(VENV)/.simulators: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[simulators]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.simulators

clean:  ## Removes what was made, the virtual environment too
	rm -rf $(VENV) out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
