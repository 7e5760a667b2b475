# make demo: one whole surgery on the embedded model, whose words are mild.  make test: all tests.
# Both set up .venv first, tests with what they need on top; after that nothing is installed again
# until the pins change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTS_READY := $(VENV)/.tests-ready

.PHONY: demo test check lint bench clean

demo: $(READY)
	$(BIN)/surgery run --show-offensive

test: $(TESTS_READY)
	$(BIN)/pytest

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
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(TESTS_READY): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
