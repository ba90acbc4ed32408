# Everything runs in .venv, which the first target sets up. torch comes first and pinned: asked for openly, its build with
# CUDA's libraries (several GB) would be taken on a machine without a GPU.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all mutation mutation-generated lint format bench wheel clean help

help:  ## What can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -E '^torch==' requirements.lock)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(READY)

demo: $(READY)  ## Quantise, tune and run a real transformer on this CPU
	$(BIN)/gridstone demo

# One worker for each core, up to four: kernels under test start threads of their own. A file stays on one worker.
WORKERS := --numprocesses auto --maxprocesses 4 --dist loadfile

test: $(READY)  ## The quick suite: no GPU, at most 10 minutes on 2 cores
	$(BIN)/python -m pytest $(WORKERS) -m "not slow and not gpu"

test-all: $(READY)  ## The quick suite and the long checks
	$(BIN)/python -m pytest $(WORKERS) -m "not gpu"

mutation: $(READY)  ## Plant some three hundred bugs, and see that the tests catch every one: a quarter of an hour on 2 cores
	$(BIN)/python -m tests.mutation

mutation-generated: $(READY)  ## Change the kernels at random, and see that the checks tell the wrong ones
	$(BIN)/python -m tests.mutation.generated

lint: $(READY)  ## Style, types, rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: $(READY)  ## Put every file into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## The GEMM table, beside torch and the machine's limits
	$(BIN)/python -m bench.gemm

wheel: $(READY)  ## Build the wheel and the source archive
	$(BIN)/python -m build --outdir dist

clean:  ## Remove what make made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
