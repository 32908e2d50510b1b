# Every target makes the virtual environment when it is missing, and leaves it alone when it is there.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: help demo test lint bench docs clean

help:
	@grep -E '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 8

$(READY):
	$(PYTHON) -c 'import sys; sys.exit("biggan needs Python 3.11 or newer: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)  ## handwritten digits, from nothing to a trained generator and its pictures
	test -f data/digits/dataset.json || $(BIN)/biggan pack digits data/digits --resolution 32
	$(BIN)/biggan train configs/digits.yaml
	$(BIN)/biggan sample runs/digits --seed 1 --out runs/digits/digits.png
	$(BIN)/python benchmarks/digits_quality.py runs/digits
	@echo "Look at runs/digits/digits.png, and at how it came about in runs/digits/samples/"

test: $(READY)  ## all tests
	$(BIN)/python -m pytest

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## images per second, as a ratio within one run
	$(BIN)/python benchmarks/throughput.py

docs: $(READY)  ## write docs/configuration.md from the config's docstrings
	$(BIN)/python docs/configuration.py

clean:  ## remove .venv and caches; data/ and runs/ stay
	rm -rf .venv *.egg-info build dist .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
