# `make run` starts Berth on this machine, `make test` runs the tests. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python

.PHONY: run setup dev test check format lock bench clean

run: setup
	@exec $(RUN) manage.py up

setup: $(VENV)/ready
	@$(RUN) manage.py make_env

test: $(VENV)/dev-ready
	@$(RUN) manage.py make_env
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh tests/run

check: $(VENV)/dev-ready
	@$(RUN) manage.py make_env
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh tests/check

format: $(VENV)/dev-ready
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: $(VENV)/dev-ready
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(RUN) -m bench

# Resolving needs uv (https://docs.astral.sh/uv/); installing does not.
lock:
	uv pip compile --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --universal --python-version 3.11 requirements.in -o requirements.lock
	uv pip compile --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --universal --python-version 3.11 requirements-dev.in -o requirements-dev.lock

$(VENV)/ready: requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) here. Install Python 3.11 or later, or say which: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is too old. Berth needs Python 3.11 or later: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $(PYTHON) has no venv module. Install it (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "Installing what Berth needs into $(VENV) …"
	@$(RUN) -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(VENV)/dev-ready: $(VENV)/ready requirements-dev.lock
	@echo "Installing what the tests need into $(VENV) …"
	@$(RUN) -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

clean:
	rm -rf $(VENV) staticfiles .mypy_cache .ruff_cache test-results
