# make demo    label, verify and train on real images; two tables, under five minutes
# make bench   how fast all of it is, against its peers; one table, four minutes on two quiet cores
# make test    the tests
# make test-gpu  the tests that need a CUDA device
# make docs    the documentation site, in site-output/html; warnings are errors
# make docs-links  asks the network whether the addresses in it are there
# make drill   the tests of reliability at a share of their goals: SCALE=0.1 by default; hours at 1
# make release VERSION=1.2.3  checks, builds and tags a release
# make check   formatting, lint, types, import arrows, then the tests
# make lock    resolve the dependencies anew into requirements.lock

PYTHON ?= python3
SCALE ?= 0.1
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV := $(BIN)/uv
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help setup demo bench test test-gpu drill docs docs-links release lint check lock clean

help:
	@sed -n 's/^# //p' $(firstword $(MAKEFILE_LIST))

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(UV) || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) pip sync --quiet --compile-bytecode --require-hashes --python $(BIN)/python requirements.lock
	$(UV) pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	touch $@

demo: $(READY)
	$(BIN)/fkd demo

bench: $(READY)
	$(BIN)/python -m benchmarks

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu tests

drill: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m drill --scale $(SCALE)

docs: $(READY)
	$(BIN)/python docs/_site/build.py site-output

docs-links: $(READY)
	$(BIN)/python docs/_site/build.py site-output linkcheck

release: $(READY)
	.ci/release $(VERSION)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --verbose

check: lint test

lock:
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --all-extras \
		--no-header pyproject.toml --output-file requirements.lock

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis demo-output site-output
