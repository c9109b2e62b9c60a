# `make demo` and `make test` set up what they need; nothing but Python 3.11 and make has to be there.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS := $(VENV)/.bench
PARTS := callbacks common datamodules diagnostics lightning_modules optim
# On small machines two busy-waiting OpenMP teams slow each other down tenfold.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help install demo test test-slow test-all mutants check format bench golden clean

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(INSTALLED)  ## set up .venv with the pinned versions of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; give another by PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	mkdir -p .links/steepest
	for part in $(PARTS) steepest/__init__.py; do ln -sfn ../../$$part .links/steepest/; done
	touch $@

demo: $(INSTALLED)  ## train a network on handwritten digits and see how its gradients flow
	$(BIN)/steepest fit --config digits_mlp

test: $(INSTALLED)  ## all quick tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" -q -n auto --maxprocesses 8 --dist worksteal

test-slow: $(INSTALLED)  ## the slower tests only
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -q -n auto --maxprocesses 4 --dist loadfile

test-all: test test-slow  ## everything

SAMPLE ?= 200
SEED ?= 0
mutants: $(INSTALLED)  ## how many of SAMPLE=200 small faults do the quick tests notice?
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutants]'
	OMP_NUM_THREADS=1 $(BIN)/python scripts/mutants.py --sample $(SAMPLE) --seed $(SEED)

check: $(INSTALLED)  ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest -q tests/test_architecture.py

format: $(INSTALLED)  ## put the code into the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(PEERS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

bench: $(PEERS)  ## framework overhead and data loading, against their peers
	$(BIN)/python benchmarks/framework_overhead.py
	$(BIN)/python benchmarks/data_loading.py

golden: REV ?= HEAD
golden: $(INSTALLED)  ## short trainings with the code of a commit (REV=HEAD) and of the working tree, compared to the bit
	$(BIN)/python scripts/golden.py against $(REV)

clean:  ## remove the environment and caches; runs and data stay
	rm -rf $(VENV) build *.egg-info .ruff_cache .pytest_cache .hypothesis
