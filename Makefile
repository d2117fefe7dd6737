# `make up` runs sparkgate, `make test` checks it; both set up .venv first. Needs Python 3.11 or newer and PyPI.
#
#   make up ARGS="--port 9000 --no-dashboard"     options of `sparkgate up`
#   make test TESTS="tests/router -q"             part of the tests, or options of pytest
#   make setup PYTHON=/path/to/python3.12         another interpreter
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.version_info >= (3, 11) and print(sys.executable)' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
CODE := gateway router engine dashboard migrations tests
ARGS ?=
TESTS ?=

.PHONY: help setup up test test-examples test-gpu test-faults test-kills test-training lint fmt browser clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 10

setup: $(VENV)/.installed  ## make .venv with the pinned dependencies

up: setup  ## start everything; Ctrl-C stops it
	@exec $(BIN)/sparkgate up $(ARGS)

test: lint browser  ## lint, types and the whole test suite, in two processes that take file by file
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 25 $(TESTS)

test-examples: $(VENV)/.installed-dev $(VENV)-examples/.installed  ## the examples, with real client libraries in a .venv-examples of their own
	$(BIN)/python -m pytest tests/examples $(TESTS)

test-gpu: $(VENV)/.installed-dev  ## the tests that need a CUDA device, on this machine's
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { \
		echo "make test-gpu needs a CUDA device, and this PyTorch sees none." >&2; exit 1; }
	$(BIN)/python -m pytest -m gpu $(TESTS)

test-faults: $(VENV)/.installed-dev  ## a thousand broken streams, and a thousand departures of clients
	SPARKGATE_EXAMPLES=1000 $(BIN)/python -m pytest -s tests/gateway/dispatch/test_stream_properties.py \
		tests/gateway/dispatch/test_disconnects.py $(TESTS)

test-kills: $(VENV)/.installed-dev  ## twenty kill -9 under load, and two minutes without a database
	SPARKGATE_KILLS=20 SPARKGATE_OUTAGE_S=120 $(BIN)/python -m pytest -s tests/system/test_ledger_kills.py $(TESTS)

test-training: $(VENV)/.installed-dev  ## the bundled drafter's recipe for five minutes; SPARKGATE_TEST_DATA has its data
	SPARKGATE_TRAIN_MINUTES=5 $(BIN)/python -m pytest -s tests/engine/training/test_reproduction.py $(TESTS)

lint: $(VENV)/.installed-dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2 $(CODE)

fmt: $(VENV)/.installed-dev  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv, caches and build output; the data directory stays
	rm -rf $(VENV) $(VENV)-examples build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second call instant: pip runs again only when what is to be installed has changed.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) (about 2 GB on disk; minutes at the first time)"
	$(INSTALL) -e '.[all]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV), with what the tests need (about 2 GB on disk; minutes at the first time)"
	$(INSTALL) -e '.[all,dev]'
	@touch $(VENV)/.installed $@

$(VENV)-examples/.installed: examples/requirements.txt | $(BIN)/python
	$(BIN)/python -m venv $(VENV)-examples
	$(VENV)-examples/bin/python -m pip install --quiet --disable-pip-version-check -r examples/requirements.txt
	@touch $@

$(BIN)/python:
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "sparkgate needs Python 3.11 or newer, and found $$($(or $(PYTHON),python3) --version 2>&1 || true)." >&2; \
		echo "Install one (on Debian or Ubuntu: apt-get install python3.11 python3.11-venv), or name one:" >&2; \
		echo "    make $(or $(MAKECMDGOALS),up) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu: apt-get install python3-venv" >&2; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)

# The dashboard's tests drive a real Chromium. Without one they are skipped, and say so.
browser: $(VENV)/.installed-dev
	@if command -v chromium chromium-browser google-chrome >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then \
		echo "Installing chromium for the dashboard's tests"; \
		{ apt-get update && apt-get install -y --no-install-recommends chromium; } >/dev/null 2>&1 && exit 0; \
	fi; \
	echo "There is no chromium and it could not be installed: the browser tests will be skipped." >&2
