# `make demo` and `make test` set up what they need; nothing but Python 3.11 and make has to be there.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# On small machines two busy-waiting OpenMP teams slow each other down tenfold.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help install demo test test-slow test-all check format bench clean

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(INSTALLED)  ## set up .venv with the pinned versions of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; give another by PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(INSTALLED)  ## train a network on handwritten digits and see how its gradients flow
	$(BIN)/steepest fit --config configs/digits_mlp.yaml

test: $(INSTALLED)  ## all quick tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" -q -n auto --maxprocesses 8 --dist worksteal

test-slow: $(INSTALLED)  ## the slower tests only
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -q -n auto --maxprocesses 4 --dist loadfile

test-all: test test-slow  ## everything

check: $(INSTALLED)  ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest -q tests/test_imports.py -k import

format: $(INSTALLED)  ## put the code into the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## framework overhead and data loading, against their peers
	$(BIN)/python benchmarks/framework_overhead.py
	$(BIN)/python benchmarks/data_loading.py

clean:  ## remove the environment and caches; runs and data stay
	rm -rf $(VENV) build *.egg-info .ruff_cache .pytest_cache .hypothesis
