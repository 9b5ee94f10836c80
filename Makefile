# `make demo` shows the project at work; `make test` is what continuous integration runs.

VENV ?= .venv
# The first interpreter that runs and is new enough. `make PYTHON=/path/to/python ...` overrides it.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then echo $$p; break; fi; done)
PY := $(VENV)/bin/python
PIP := $(PY) -m pip -qq --disable-pip-version-check # errors only
# pip would compile every file, which takes most of its time; Python compiles the few that are imported, at first import.
INSTALL := $(PIP) install --no-compile -c constraints.txt
TORCH := $(shell sed -n 's/^\(torch==[^; ]*\).*/\1/p' constraints.txt)

# Nothing here may reach a model hub. A worker for each processor, and no more than four: each needs some 2 GB of memory.
OFFLINE := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
WORKERS ?= logical
# Each process would compile all that it imports where the environment forbids to keep what is compiled.
COMPILED := PYTHONDONTWRITEBYTECODE=
PYTEST_ARGS ?=

.PHONY: help demo install test pytest lint format bench compat docs docs-check release-check clean
.DELETE_ON_ERROR:

help:
	@echo "make demo        train two plans on a sample set and compare them (no hub needed)"
	@echo "make test        lint, then every test"
	@echo "make pytest      the tests alone; PYTEST_ARGS='-k cache' passes options on"
	@echo "make lint        ruff, pyright, import-linter"
	@echo "make format      ruff's formatter and its safe fixes"
	@echo "make bench       the measurements of benchmarks/"
	@echo "make compat      every test with the oldest and the newest libraries (docs/compatibility.md)"
	@echo "make docs        the documentation site in build/site, every link checked"
	@echo "make docs-check  the documents' code blocks and generated parts"
	@echo "make release-check  builds wheel and sdist and tries them, and every extra, in an empty environment"
	@echo "make clean       removes the virtual environment and all caches"

# Stamps say what is installed, so a second call installs nothing. torch goes in first and by its pin: any other
# order lets a dependency choose a build of torch.
$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "no Python >= 3.10 found; give one: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch-$(TORCH): $(VENV)/.python
	@echo "installing $(TORCH)"
	@$(INSTALL) "$(TORCH)"
	@touch $@

$(VENV)/.demo: $(VENV)/.torch-$(TORCH) pyproject.toml constraints.txt
	@echo "installing stratatune[demo]"
	@$(INSTALL) -e ".[demo]"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch-$(TORCH) pyproject.toml constraints.txt
	@echo "installing stratatune[dev]"
	@$(INSTALL) -e ".[dev]"
	@touch $(VENV)/.demo $@

install: $(VENV)/.dev

demo: $(VENV)/.demo
	@$(OFFLINE) $(COMPILED) $(PY) examples/demo.py

# Side by side: pyright and some tests use one core.
test: $(VENV)/.dev
	@$(MAKE) --no-print-directory --jobs=2 pytest lint

pytest: $(VENV)/.dev
	$(OFFLINE) $(COMPILED) OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(WORKERS) --maxprocesses 4 $(PYTEST_ARGS)

# pyright's node comes as a wheel with its [nodejs] extra; the variable silences its look-up of newer releases.
lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(VENV)/bin/pyright --pythonpath $(PY)
	$(VENV)/bin/lint-imports

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.dev
	@$(OFFLINE) $(PY) -W ignore -m benchmarks.run
	@if $(PY) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
		$(OFFLINE) $(PY) -W ignore -m benchmarks.gpu && $(OFFLINE) $(PY) -W ignore -m benchmarks.trials; fi

# COMPAT=oldest runs one of the two; COMPAT_TORCH=oldest|newest|VERSION takes another torch than the pin.
COMPAT ?= oldest newest
COMPAT_TORCH ?= pinned
compat:
	$(PYTHON) scripts/compat.py $(COMPAT) --torch $(COMPAT_TORCH) --pytest "-n $(WORKERS) --maxprocesses 4 $(PYTEST_ARGS)"

docs-check: $(VENV)/.dev
	@if [ -d tests/docs ]; then $(OFFLINE) $(PY) -m pytest -q tests/docs; else echo "tests/docs is not there yet"; fi

$(VENV)/.docs: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing zensical"
	@$(INSTALL) "$$(sed -n 's/^docs = \["\([^"]*\)"\].*/\1/p' pyproject.toml)"
	@touch $@

docs: $(VENV)/.docs
	$(VENV)/bin/zensical build --clean --strict

# EXTRAS="report serve" tries some.
EXTRAS ?=
release-check:
	$(PYTHON) scripts/release_check.py $(EXTRAS)

clean:
	rm -rf $(VENV) .compat build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
