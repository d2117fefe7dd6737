# `make up` runs sparkgate, `make test` checks it; both set up .venv first. Needs Python 3.11 or newer and PyPI.
#
#   make up ARGS="--port 9000 --no-dashboard"     options of `sparkgate up`
#   make test TESTS="tests/router -q"             part of the tests, or options of pytest
#   make setup PYTHON=/path/to/python3.12         another interpreter
SHELL := bash
unexport PYTHONDONTWRITEBYTECODE
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.version_info >= (3, 11) and print(sys.executable)' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
CODE := gateway router engine dashboard migrations tests
ARGS ?=
TESTS ?=

.PHONY: help setup up test test-examples test-gpu test-compose test-faults test-gateways test-kills test-lossless test-newcomer test-training lint audit lock fmt browser clean test-schema fuzz soak

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 10

setup: $(VENV)/.installed  ## make .venv with the pinned dependencies

up: setup  ## start everything; Ctrl-C stops it
	@exec $(BIN)/sparkgate up $(ARGS)

test: lint browser  ## lint, types and the whole test suite, in four processes that take file by file
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder --durations 25 $(TESTS)

test-examples: $(VENV)/.installed-dev $(VENV)-examples/.installed  ## the examples, with real client libraries in a .venv-examples of their own
	$(BIN)/python -m pytest tests/examples $(TESTS)

test-gpu: $(VENV)/.installed-dev  ## the tests that need a CUDA device, on this machine's
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { \
		echo "make test-gpu needs a CUDA device, and this PyTorch sees none." >&2; exit 1; }
	$(BIN)/python -m pytest -m gpu $(TESTS)

test-compose: $(VENV)/.installed-dev  ## docker-compose.yml's services with the engine, in namespaces in the place of Docker
	SPARKGATE_COMPOSE_ENGINE=1 $(BIN)/python -m pytest tests/test_compose.py tests/system/test_compose_services.py $(TESTS)

test-faults: $(VENV)/.installed-dev  ## every fault of upstreams, processes, disk and clock; prints docs/faults.md's tables
	SPARKGATE_EXAMPLES=4000 $(BIN)/python -m pytest -s tests/faults $(TESTS)
	SPARKGATE_EXAMPLES=1000 $(BIN)/python -m pytest -s tests/gateway/dispatch/test_stream_properties.py \
		tests/gateway/dispatch/test_disconnects.py $(TESTS)

test-gateways: $(VENV)/.installed-dev  ## three gateways on one Postgres: limits over all, one cut off, restarts under load (root, ip, nginx)
	SPARKGATE_GATEWAYS_S=60 $(BIN)/python -m pytest -s tests/system/test_many_gateways.py $(TESTS)

test-kills: $(VENV)/.installed-dev  ## twenty kill -9 under load, and two minutes without a database
	SPARKGATE_KILLS=20 SPARKGATE_OUTAGE_S=120 $(BIN)/python -m pytest -s tests/system/test_ledger_kills.py $(TESTS)

test-lossless: $(VENV)/.installed-dev  ## greedy answers of all prompts: those of transformers, and with drafts those without
	SPARKGATE_ALL_PROMPTS=1 $(BIN)/python -m pytest -s tests/engine/test_greedy.py tests/engine/test_lossless.py $(TESTS)

test-training: $(VENV)/.installed-dev  ## the bundled drafter's recipe for five minutes; SPARKGATE_TEST_DATA has its data
	SPARKGATE_TRAIN_MINUTES=5 $(BIN)/python -m pytest -s tests/engine/training/test_reproduction.py $(TESTS)

test-newcomer:  ## the README's commands as a new user with an empty home would meet them, timed (as root, else only an empty home)
	@tests/newcomer.sh

test-schema: $(VENV)/.installed-dev $(VENV)-schema/.installed  ## every path of /openapi.json by schemathesis, in a .venv-schema of its own
	$(BIN)/python -m tests.schema --schemathesis $(VENV)-schema/bin/schemathesis $(ARGS)

fuzz: $(VENV)/.installed-dev  ## a million spoiled inputs for parsers and loaders, in two processes
	$(BIN)/python -m tests.fuzz $(ARGS)

SOAK_MINUTES ?= 15
soak: $(VENV)/.installed-dev  ## the whole product for SOAK_MINUTES at 60 % of what this machine can do, with faults, reloads and restarts
	$(BIN)/python -m tests.soak --minutes $(SOAK_MINUTES) $(ARGS)

lint: $(VENV)/.installed-dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2 $(CODE)

audit: $(VENV)-audit/.installed  ## what advisories say of the locked dependencies; asks the network
	$(VENV)-audit/bin/pip-audit --strict --no-deps --disable-pip -r requirements.lock

lock: $(VENV)-audit/.installed  ## requirements.lock anew from constraints.txt
	$(VENV)-audit/bin/uv pip compile pyproject.toml --extra all -c constraints.txt --generate-hashes --universal \
		--python-version 3.11 --no-header --no-annotate --quiet -o $(VENV)-audit/all.txt
	@{ head -2 requirements.lock; \
		awk '/^[a-z]/ {keep = !/^(torch|triton|nvidia-|cuda-)/} keep' $(VENV)-audit/all.txt; } > $(VENV)-audit/requirements.lock
	@mv $(VENV)-audit/requirements.lock requirements.lock

fmt: $(VENV)/.installed-dev  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv, caches and build output; the data directory stays
	rm -rf $(VENV) $(VENV)-examples $(VENV)-audit $(VENV)-schema build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second call instant: pip runs again only when what is to be installed has changed.
# First what the lock has, each file by its sha256; then what it has not: sparkgate itself, PyTorch, and for tests their tools.
# Python compiles a module when it is first imported: to compile them all, most of which never are, is half of an install.
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check --no-compile
INSTALL = $(BIN)/python $(PIP_INSTALL) -c constraints.txt
INSTALL_LOCKED = $(BIN)/python $(PIP_INSTALL) --no-deps --require-hashes -r requirements.lock

$(VENV)/.installed: pyproject.toml constraints.txt requirements.lock | $(BIN)/python
	@echo "Installing into $(VENV) (about 2 GB on disk; minutes at the first time)"
	$(INSTALL_LOCKED)
	$(INSTALL) -e '.[all]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt requirements.lock | $(BIN)/python
	@echo "Installing into $(VENV), with what the tests need (about 2 GB on disk; minutes at the first time)"
	$(INSTALL_LOCKED)
	$(INSTALL) -e '.[all,dev]'
	@touch $(VENV)/.installed $@

$(VENV)-schema/.installed: tests/schema/requirements.txt | $(BIN)/python
	$(BIN)/python -m venv $(VENV)-schema
	$(VENV)-schema/bin/python $(PIP_INSTALL) -r tests/schema/requirements.txt
	@touch $@

$(VENV)-examples/.installed: examples/requirements.txt | $(BIN)/python
	$(BIN)/python -m venv $(VENV)-examples
	$(VENV)-examples/bin/python $(PIP_INSTALL) -r examples/requirements.txt
	@touch $@

$(VENV)-audit/.installed: | $(BIN)/python
	$(BIN)/python -m venv $(VENV)-audit
	$(VENV)-audit/bin/python $(PIP_INSTALL) pip-audit uv
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
