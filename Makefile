# Two commands on a fresh machine: 'make demo' and 'make test'. Both create .venv from constraints.txt first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

export DS_ACCELERATOR ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)

.PHONY: setup demo test test-all lint lock clean

setup: $(STAMP)

# The stamp is older than what it was made from whenever the environment is stale.
$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)' >&2; exit 3; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: setup
	$(BIN)/tide demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What starts Ray has the machine to itself. Groups of ranks share two processes with each other, and everything else
# does, a file's tests in order in one of them.
test: lint
	$(BIN)/python -m pytest -m 'not slow and not cluster' -n 2 --dist loadfile
	$(BIN)/python -m pytest -m 'not slow and cluster' -n 2 --dist loadfile --ignore=tests/cluster
	$(BIN)/python -m pytest -m 'not slow and cluster' tests/cluster

test-all: test
	$(BIN)/python -m pytest -m slow

# New pins for constraints.txt, from the ranges in pyproject.toml.
lock:
	python3 -m venv build/lock
	build/lock/bin/python -m pip install --quiet 'torch==2.13.0' -e '.[dev]'
	{ head -1 constraints.txt; build/lock/bin/python -m pip freeze --all --exclude-editable --exclude pip | sed 's/+cpu$$//'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
