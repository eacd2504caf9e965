# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# two workers on two cores: torch's own threads would only fight over them
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

.PHONY: demo test check lint bench coverage clean

demo: $(VENV)/demo.installed
	$(BIN)/layertool demo --output demo

test: $(VENV)/test.installed
	$(PYTEST)

check: lint
	$(PYTEST) -m "not slow"

lint: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# two thirds slower than `make test`, which is why CI does not count
coverage: $(VENV)/test.installed
	$(PYTEST) --cov --cov-report=term --cov-report=html

bench: $(VENV)/test.installed
	$(BIN)/python benchmarks/run.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/%.installed: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo
