# make demo: one whole surgery on the demo model, whose words are mild.  make demo-llm: one on
# SmolLM2-135M-Instruct, fetched first (93 to 269 MB).  make test: all tests.  All set up .venv first, each
# with what it needs on top; after that nothing is installed again until the pins change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LLM_READY := $(VENV)/.llm-ready
TESTS_READY := $(VENV)/.tests-ready
# Python compiles a module at its first import. Compiling all that is installed takes a minute.
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# It keeps what it compiled, whatever the environment says.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo demo-llm test check lint bench clean

demo: $(READY)
	$(BIN)/surgery run --show-offensive

demo-llm: $(LLM_READY)
	$(BIN)/surgery fetch smollm2
	$(BIN)/surgery run --model smollm2 --behavior toxicity --out surgery-runs/smollm2

test: $(TESTS_READY)
	$(BIN)/pytest -n auto --dist loadgroup --no-loadscope-reorder

check: lint test

lint: $(TESTS_READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

bench: $(READY)
	$(BIN)/python -m benchmarks

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP_INSTALL) -e .
	touch $@

$(LLM_READY): $(READY)
	$(PIP_INSTALL) -e '.[fetch]'
	touch $@

$(TESTS_READY): $(READY)
	$(PIP_INSTALL) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
