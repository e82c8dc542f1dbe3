# Needs Python 3.11 or newer and make. Everything else goes into .venv, once.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --quiet --disable-pip-version-check
CORE   := $(shell find appliance -name '*.py')

CAN_COMPILE := import os, shutil, sys, sysconfig; \
    header = os.path.join(sysconfig.get_path("include"), "Python.h"); \
    sys.exit(not (shutil.which(os.environ.get("CC", "cc")) and os.path.exists(header)))

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types contracts fix bench bench-live soak docs compiled clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/runtime ## replay an example capture: its calls as a table, the ledger, and sent to a database
	@mkdir -p build
	$(BIN)/python examples/make_capture.py build/demo.pcap
	$(BIN)/appliance replay --format table --summary build/demo.pcap
	@$(BIN)/python -m examples.send build/demo.pcap

test: $(VENV)/dev ## the test suite
	$(BIN)/python -m pytest -n 2 -q

check: lint types contracts test ## all that must hold: lint, types, contracts, tests

lint: $(VENV)/dev ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --quiet --check .

types: $(VENV)/dev ## mypy --strict
	$(BIN)/mypy

contracts: $(VENV)/dev ## who may import whom (import-linter)
	$(BIN)/lint-imports

fix: $(VENV)/dev ## repair and format what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev ## CPU per call beside a floor, and bench-live; on the compiled core where that can be built
	@if $(BIN)/python -c '$(CAN_COMPILE)'; then \
	    $(MAKE) --no-print-directory compiled || exit 1; echo 'bench: compiled core'; \
	    export PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/compiled:$(CURDIR); \
	else \
	    echo 'bench: interpreted core (no C compiler or no Python headers)'; \
	fi; $(BIN)/python -m bench.run && $(BIN)/python -m bench.live

bench-live: $(VENV)/dev ## the highest rate without loss of a mirror target, beside a bare receiving loop
	$(MAKE) --no-print-directory compiled
	PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/compiled:$(CURDIR) $(BIN)/python -m bench.live

soak: $(VENV)/dev ## twenty minutes of load while the database fails at random: nothing leaks, all adds up
	$(BIN)/python -m tests.faults.soak

docs: $(VENV)/runtime ## write docs/ledger.md, docs/flaws.md and the README's settings from the code
	$(BIN)/python docs/generate.py

compiled: build/compiled/done ## the core as C extensions (mypyc) in build/compiled, about a minute

clean: ## remove all that make made
	rm -rf build dist $(VENV) *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .grimp_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@echo 'making $(VENV), once'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/runtime: $(VENV)/made pyproject.toml setup.py
	$(PIP) install --editable .
	@touch $@

$(VENV)/dev: $(VENV)/made pyproject.toml setup.py
	$(PIP) install --editable '.[dev]'
	@touch $@ $(VENV)/runtime

# In a copy, so that the tree stays clean and plain Python stays what the other doors run.
build/compiled/done: $(VENV)/dev setup.py pyproject.toml $(CORE)
	rm -rf build/compiled
	mkdir -p build/compiled
	cp -r appliance setup.py pyproject.toml README.md build/compiled
	cd build/compiled && { APPLIANCE_COMPILE=1 $(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace \
	    >log 2>&1; status=$$?; cat log; exit $$status; }
	@# A generator that mypyc turns into a list once held a whole capture in memory.
	@! grep 'warning:' build/compiled/log
	@touch $@
