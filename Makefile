# A fresh machine needs only Python >= 3.11, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
EXTRA_STAMP := $(VENV)/installed-test
SOURCES := pyproject.toml constraints.txt

.PHONY: demo test lint clean

demo: $(STAMP)
	$(BIN)/ssrtrack simulate demo -o demo.h5 --seed 1 --force
	$(BIN)/ssrtrack info demo.h5
	$(BIN)/ssrtrack train koss -s demo -o demo-koss --minutes 2 --force
	$(BIN)/ssrtrack evaluate demo.h5 -t imm -t ./demo-koss -t kf -o demo-report
	@echo
	@echo "Open the report in a browser: $(CURDIR)/demo-report/report.html"

test: $(EXTRA_STAMP)
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(EXTRA_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ssrtrack needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(EXTRA_STAMP): $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@ $(STAMP)

clean:
	rm -rf $(VENV) demo.h5 demo-koss demo-report .pytest_cache .mypy_cache .ruff_cache
