# Every target makes .venv first: on a fresh machine `make demo` or `make test` is enough.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.10 || command -v python3)
BIN := .venv/bin
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs

.PHONY: demo test lint demo-short docs docs-build pages package clean

demo: .venv/.ready
	$(BIN)/python examples/mambaic_full.py demo

test: .venv/.ready
	$(BIN)/python -m pytest

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo-short: .venv/.ready
	$(BIN)/python examples/mambaic_full.py demo --train --overwrite --steps 10 --out demo/short

# the site, on http://localhost:8000
docs: .venv/.ready
	$(MKDOCS) serve

docs-build: .venv/.ready
	$(MKDOCS) build --strict --quiet

# what scripts write: reference pages and benchmark tables (the list of public names: see CONTRIBUTING.md)
pages: .venv/.ready
	$(BIN)/python tools/reference.py
	$(BIN)/python benchmarks/tables.py

# wheel and sdist into dist/, and whether the wheel works alone
package: .venv/.ready
	$(BIN)/python tools/check_package.py

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv demo dist site
