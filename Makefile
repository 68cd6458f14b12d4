# make repro: everything from a fresh clone to the table.   make test: the tests, in the same environment.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PYTHON ?= python3

.PHONY: repro test base lint hypotheses bench bench-pipeline bench-profile bench-scaling
repro: .venv/installed
	dvc repro
	narrowband show

test: .venv/installed
	python -m pytest

lint: .venv/installed
	ruff check
	ruff format --check
	mypy

# Ratios of two things timed in one run: benchmarks/results.json and the tables of docs/performance.md.
bench: .venv/installed
	python -m benchmarks.run

bench-pipeline bench-profile bench-scaling: bench-%: .venv/installed
	python -m benchmarks.$*

base: .venv/installed
	python stages/pretrain_base.py models/base
	dvc commit --force pretrain_base

# Experiments that have finished on this commit are not run again; after Ctrl-C the queue goes on in the background.
hypotheses: .venv/installed
	narrowband hypotheses --queue
	dvc exp run --run-all
	narrowband hypotheses

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "narrowband needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	python -m pip install --quiet --requirement requirements.lock
	python -m pip install --quiet --no-deps --editable .
	touch $@
