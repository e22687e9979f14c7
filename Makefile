# The course's front door. `make help` lists what there is; everything works from a bare checkout with Python and make.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

# The first Python >= 3.11 found, unless you name one: make lab PYTHON=python3.12
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PROFILE ?= laptop
LAB_ARGS ?=
TEST_ARGS ?=
TEST_JOBS ?= -n auto --maxprocesses=4  # several test processes share the cores (conftest.py)
DEMO_ARGS ?=
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.fdlib-installed
NOTEBOOKS := $(sort $(wildcard notebooks/[0-9]*.ipynb))

.PHONY: help install lab demo test quick notebooks sync exercises site registry lint format lock clean

help:  ## this list
	@echo "fdlib: a course on diffusion models. Start with:  make lab"
	@echo
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12  another Python        PROFILE=ci|laptop|gpu  size of \`make notebooks\` ($(PROFILE))"
	@echo "  LAB_ARGS=\"…\"       flags for JupyterLab   TEST_ARGS=\"…\"          flags for pytest, e.g. -x or -n0 (one process)"

install: $(STAMP)  ## create .venv with everything the course needs (done by the others when needed)
	@:

$(STAMP): requirements.lock pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { echo "No Python >= 3.11 found (PYTHON='$(PYTHON)'). Install one, or name it:" \
		"make $(or $(MAKECMDGOALS),install) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fdlib needs Python >= 3.11, but" \
		"$(PYTHON) is $$("$(PYTHON)" --version 2>&1). Name another: make $(or $(MAKECMDGOALS),install) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "Creating $(VENV) with $(PYTHON) …"; \
		"$(PYTHON)" -m venv --clear $(VENV); }
	@echo "Installing the locked versions (the first time this takes minutes) …"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

lab: $(STAMP)  ## open the course in JupyterLab (sets up .venv the first time)
	$(BIN)/python -m jupyter lab --ServerApp.root_dir=. $(if $(wildcard notebooks/00_welcome.ipynb),--LabApp.default_url=/lab/tree/notebooks/00_welcome.ipynb) $(LAB_ARGS)

demo: $(STAMP)  ## train regions on rendered pictures, print the scores, draw build/demo.png: the proof without a browser
	$(BIN)/python scripts/demo.py $(DEMO_ARGS)

test:  ## every test: units, pairs, claims, browser, and all notebooks in the ci profile
	@start=$$SECONDS; $(MAKE) --no-print-directory install || exit; echo "set-up: $$((SECONDS - start)) s"
	$(BIN)/python -m pytest tests notebooks --nbval $(TEST_JOBS) $(TEST_ARGS)

quick: $(STAMP)  ## the tests that take seconds
	$(BIN)/python -m pytest tests -m "not slow" $(TEST_ARGS)

notebooks: $(STAMP)  ## run every notebook in PROFILE, write build/notebooks/*.html with the pictures
	@mkdir -p build/notebooks; failed=; for notebook in $(NOTEBOOKS); do \
		start=$$SECONDS; \
		FDLIB_PROFILE=$(PROFILE) $(BIN)/python -m jupyter nbconvert --execute --to html --embed-images --log-level=WARN \
			--output-dir build/notebooks "$$notebook" || failed="$$failed $$notebook"; \
		echo "$$notebook: $$((SECONDS - start)) s in profile $(PROFILE)"; \
	done; test -z "$$failed" || { echo "Failed:$$failed" >&2; exit 1; }

sync: $(STAMP)  ## make each notebook from its .py: first cell, no outputs, stable ids
	@$(BIN)/python -m fdlib.course sync

exercises: $(STAMP)  ## make the students' notebooks from solutions/
	@$(BIN)/python -m fdlib.course exercises

site: $(STAMP)  ## one searchable web site of lessons (run in PROFILE), exercises and reference: build/site
	@$(BIN)/python -m fdlib.course site --profile $(PROFILE)

registry: $(STAMP)  ## re-write data/registry.json after files in data/ changed
	@$(BIN)/python -m fdlib.course registry

lint: $(STAMP)  ## ruff: style and formatting
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

format: $(STAMP)  ## let ruff fix what it can
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

lock:  ## look up the newest versions that fit pyproject.toml and write requirements.lock
	@test -x $(BIN)/uv || $(MAKE) install
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --upgrade --no-emit-index-url --no-header \
		pyproject.toml --output-file requirements.lock

clean:  ## remove what building and testing leave behind; .venv and runs/ stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
