# Two commands for a newcomer: `make demo` and `make test`. Both need Python 3.11 to 3.13 and nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check clean

demo: .venv/installed
	$(BIN)/orl demo

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "orl needs Python 3.11 to 3.13, and '$(PYTHON)' is $$($(PYTHON) --version); name another: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	@echo "Installing orl and torch into .venv: some gigabytes, a few minutes"
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml
	@echo "Installing orl, torch and the test tools into .venv: some gigabytes, a few minutes"
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ .venv/installed

clean:
	rm -rf .venv build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
