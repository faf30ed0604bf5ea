# The commands of this project. `make help` lists them.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed

export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help install demo up test check format corpus crash bench screenshots lock clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(READY)  ## Create .venv from the lock file (done by the others when needed)

$(READY): requirements.lock pyproject.toml
	@echo "Installing the locked packages into $(VENV) (minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --upgrade "pip>=25"
	@$(BIN)/python -m pip install -qq -r requirements.lock
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@touch $(READY)

demo: $(READY)  ## Start Fanfold, ingest the sample PDFs, search them, stop
	$(BIN)/python -m samples.demo

up: $(READY)  ## Start Fanfold and serve until Ctrl-C
	$(BIN)/fanfold up

test: $(READY)  ## Run all tests but the slow ones
	$(BIN)/pytest -m "not slow and not screenshots"

check: $(READY)  ## Lint, format, types, import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## Put the code in shape
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

corpus: $(READY)  ## Ingest every PDF of the robustness corpus (../shared/corpus); prints a table of outcomes
	$(BIN)/pytest -m slow -s tests/e2e/test_corpus.py

crash: $(READY)  ## Kill real processes: every fault point times every fault; writes docs/crash-report.md (long)
	$(BIN)/pytest -m slow tests/model
	$(BIN)/pytest -m slow tests/nodes
	$(BIN)/pytest -m slow tests/crash --deselect tests/crash/test_matrix.py --deselect tests/crash/test_matrix_s3.py --deselect tests/crash/test_schedules.py
	$(BIN)/pytest -m slow tests/crash/test_matrix_s3.py
	$(BIN)/pytest -m slow tests/crash/test_matrix.py tests/crash/test_schedules.py

bench: $(READY)  ## Measure: against a plain loop over the same libraries
	$(BIN)/python -m benchmarks.extraction
	$(BIN)/python -m benchmarks.embedding
	$(BIN)/python -m benchmarks.service
	$(BIN)/python -m benchmarks.throughput
	$(BIN)/python -m benchmarks.cancel
	$(BIN)/python -m benchmarks.control_plane
	$(BIN)/python -m benchmarks.search_quality

screenshots: $(READY)  ## Take the README's pictures of the web page again
	$(BIN)/pytest -m screenshots tests/e2e/test_screenshots.py

lock:  ## Resolve the dependencies again and write requirements.lock
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install -qq --upgrade "pip>=25"
	build/lock/bin/python -m pip install -qq "torch==2.13.0"
	build/lock/bin/python -m pip install -qq ".[embedded,models,dev]"
	build/lock/bin/python -m pip freeze --all --exclude fanfold --exclude pip \
		| sed -E 's/\+cpu$$//' | grep -vE '^(nvidia|cuda|triton)' > requirements.lock  # torch brings its own CUDA where it needs it

clean:  ## Remove the environment and everything that was built
	rm -rf $(VENV) build samples/pdf *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
