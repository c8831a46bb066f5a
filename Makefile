# `make demo` and `make test` set up all they need below this folder, from Python 3.11 or later, make and pip.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check lint format lock help
help:
	@echo "make demo    run the whole portal on this machine (PORT=8000)"
	@echo "make test    lint, types, import rules, migrations, tests"
	@echo "make lint    only the checks; make format: mend what can be mended"
	@echo "make lock    take newer versions of what we depend on"

PORT ?= 8000
demo: .venv/demo
	@exec $(BIN)/python manage.py demo --port $(PORT)

test: lint
	$(BIN)/python -m pytest

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	SECRET_KEY=only-for-checks DATABASE_URL=postgresql:// $(BIN)/mypy .
	$(BIN)/lint-imports

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The virtual environment, made anew when the Python is too old or has no venv: each says so in one line.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Needs Python 3.11 or later; $(PYTHON) is not: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Needs Python's venv, which this Python lacks (on Debian: apt install python3-venv)."; exit 1; }
	@$(PYTHON) -m venv .venv

# Marks of what is installed: redone when a lock file changes.
.venv/demo: requirements.lock | .venv/bin/python
	@test -e .venv/dev || echo "Installing into .venv; about a minute, the first time ..."
	@test -e .venv/dev || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

.venv/dev: requirements-dev.lock | .venv/bin/python
	@echo "Installing into .venv; a minute or two, the first time ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

# Needs uv. Universal: one file for every Python and system; no host is named in it.
UV_COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links --upgrade pyproject.toml --extra postgres
lock:
	$(UV_COMPILE) -o requirements.lock
	$(UV_COMPILE) --group dev -c requirements.lock -o requirements-dev.lock
