# One front door for people and CI. Needs Python >= 3.11 and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet
LOCKED := $(PIP) --require-hashes --no-deps --no-build-isolation --requirement

.PHONY: install demo test test-slow test-crash test-crash-short check lint lint-project types docs help pins hashes audit wheel dist clean

install: $(STAMP)  ## Make the virtual environment and install FinMoE in it.

$(STAMP): pyproject.toml $(wildcard requirements/*.txt)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "FinMoE needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(LOCKED) requirements/build.txt
	# The CPU build of torch if one of pip's indexes has it, else that of PyPI.
	$(LOCKED) requirements/torch-cpu.txt 2> $(VENV)/torch-cpu.log || $(LOCKED) requirements/torch.txt
	$(LOCKED) requirements/dev.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	touch $(STAMP)

demo: install  ## Train, merge, route, evaluate and predict on the shipped sample: at most 4 minutes on 2 cores.
	$(BIN)/moe run --overwrite --no-pooled

test: install  ## Run the quick tests.
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: install  ## Run the slow tests too.
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

test-crash: install  ## Kill every command 20 times at random moments, call it again, compare the bytes; write the page's table.
	$(BIN)/python benchmarks/crash.py --write docs/reliability.md

test-crash-short: install  ## The same with one kill of every command: at most 2 minutes of 2 cores.
	$(BIN)/python benchmarks/crash.py --short

check: lint types docs  ## Lint, types, and the site with all of its links.

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-project: install  ## Lint the workflows, the forms, the citation and the Containerfile.
	$(LOCKED) requirements/lint.txt
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/hadolint Containerfile

types: install
	$(BIN)/mypy
	MYPYPATH=benchmarks:benchmarks/cuda $(BIN)/mypy benchmarks docs/hooks

docs: install  ## Build the site into build/site; a broken link stops it.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/site

help: install  ## Update docs/commands.md from the --help texts.
	$(BIN)/python docs/hooks/commands.py

pins: install  ## Update all pins: constraints.txt, the hashes in requirements/, the bill of materials.
	$(PIP) --upgrade pip uv cyclonedx-bom
	$(BIN)/python .ci/pins.py

hashes: install  ## Write the hashes and the bill of materials again, without updating versions.
	$(PIP) --upgrade pip uv cyclonedx-bom
	$(BIN)/python .ci/pins.py --keep-versions

audit: install  ## Known weaknesses of what is pinned.
	$(PIP) pip-audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

wheel: install
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

dist: install  ## Build the source distribution and the wheel of a release.
	$(BIN)/python -m build --no-isolation --outdir dist .

clean:
	rm -rf $(VENV) dist build *.egg-info
