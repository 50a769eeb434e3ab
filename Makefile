# One front door for people and CI. Needs Python >= 3.11 and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test test-slow check lint types wheel clean

install: $(STAMP)  ## Make the virtual environment and install FinMoE in it.

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "FinMoE needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: install  ## Train, merge, route, evaluate and predict on the shipped sample: at most 4 minutes on 2 cores.
	$(BIN)/moe run --overwrite

test: install  ## Run the quick tests.
	$(BIN)/python -m pytest

test-slow: install  ## Run the slow tests too.
	$(BIN)/python -m pytest -m slow

check: lint types  ## Lint and types.

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

wheel: install
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) dist build *.egg-info
