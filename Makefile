# make demo and make test set themselves up: a virtual environment in .venv, with the versions in
# constraints.txt. The second call finds it there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
CODE := skbert tests benchmarks docs/examples

.PHONY: help demo test test-clusters test-oldest test-newest stress audit lint format bench bench-speed bench-search bench-gpu clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

# torch goes first and by its pinned version, so that nothing else decides which build comes. pip would compile
# one file after the other; compileall has a process for each core, and leaves out what little is imported of.
# Files for newer Pythons make it fail.
RARE := /tests/|/testing/|/transformers/models/|/torch/_inductor/|/ray/|/sympy/|/sqlalchemy/|/pip/|/networkx/
$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "Setting up $(VENV); this takes a few minutes, once."
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "skbert needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-compile torch==2.13.0
	$(PIP) --no-compile --editable '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 -x '$(RARE)' $(VENV)/lib || true
	@touch $@

# PASSIVE: threads that wait sleep. The default, to spin, takes the cores from other work.
demo: $(VENV)/.ready ## fine-tune on the docstrings of the installed libraries, offline
	HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python docs/examples/plot_quickstart.py

# The tests see to it themselves that they are offline and run on one thread (tests/conftest.py), so
# that a process for each core, up to four, does the same in less time. A file stays with one process.
test: $(VENV)/.ready ## run the tests
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

# Dask and Ray, each with processes of their own: a minute or two.
test-clusters: $(VENV)/.ready ## run the tests that start clusters
	$(BIN)/python -m pytest -m slow tests/test_clusters.py --numprocesses 2

# The oldest versions that pyproject.toml allows, in an environment of their own. torch is the build that the
# index has, on Linux one for CUDA: several GB. TORCH=2.13.0 takes another version.
TORCH ?= 2.10.0
OLDEST := .venv-oldest
test-oldest: ## run the tests with the oldest versions
	$(PYTHON) -m venv $(OLDEST)
	sed 's/^torch==.*/torch==$(TORCH)/' constraints-oldest.txt > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --disable-pip-version-check --quiet \
	--constraint $(OLDEST)/constraints.txt torch --editable '.[offline,test]'
	$(OLDEST)/bin/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile
	$(OLDEST)/bin/python -m pytest -m slow tests/test_clusters.py

# And the newest ones that there are: make test-newest PYTHON=python3.14. On Linux torch is a build for CUDA, too.
NEWEST := .venv-newest
test-newest: ## run the tests with the newest versions
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --disable-pip-version-check --quiet --upgrade --editable '.[offline,test]'
	$(NEWEST)/bin/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

# Tests that count something, with their full counts, and those that take long.
stress: $(VENV)/.ready ## run the long tests, and print their figures
	nice $(BIN)/python -m pytest --stress -m "stress or slow"

# First the versions of constraints.txt, as torch's own name (2.13.0+cpu) is in no database; then all that is
# installed. Not for continuous integration: what is known changes from day to day.
OSV := https://api.osv.dev/v1/query
QUERY := {"package": {"name": "skbert", "ecosystem": "PyPI"}, "version": "0"}
AUDIT := $(BIN)/python -m pip_audit --vulnerability-service osv --progress-spinner off
audit: $(VENV)/.ready ## look dependencies up in the database of known vulnerabilities, osv.dev
	@$(BIN)/python -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], sys.argv[2].encode(), 20)' \
	'$(OSV)' '$(QUERY)' 2>/dev/null || { echo "make audit: $(OSV) cannot be reached from here. Nothing was looked up."; exit 1; }
	$(PIP) --editable '.[audit]'
	$(AUDIT) --requirement constraints.txt --no-deps --disable-pip
	$(AUDIT) --skip-editable

lint: $(VENV)/.ready ## check style and types
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

format: $(VENV)/.ready ## put the code into ruff's format
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

$(VENV)/.ready-bench: $(VENV)/.ready
	$(PIP) --editable '.[bench]'
	@touch $@

bench: $(VENV)/.ready-bench ## compare test accuracies; DATA=folder with the data sets
	@test -n "$(DATA)" || { echo "make bench DATA=folder"; exit 2; }
	$(BIN)/python benchmarks/accuracy.py --data "$(DATA)" --quick

bench-speed: $(VENV)/.ready-bench ## compare speeds on the CPU; DATA=folder with the data sets
	@test -n "$(DATA)" || { echo "make bench-speed DATA=folder"; exit 2; }
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/speed.py --data "$(DATA)"

bench-search: $(VENV)/.ready-bench ## compare the costs of a grid search; DATA=folder with the data sets
	@test -n "$(DATA)" || { echo "make bench-search DATA=folder"; exit 2; }
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/search.py --data "$(DATA)"

# Needs no data and no checkpoint: a BERT of random weights, synthetic texts.
bench-gpu: $(VENV)/.ready-bench ## compare speeds on a CUDA GPU
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/speed.py --device cuda

clean: ## remove the environment and all caches
	rm -rf $(VENV) $(OLDEST) $(NEWEST) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find skbert tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
