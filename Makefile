# Every target makes the virtual environment when it is missing, and leaves it alone when it is there.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
DEPLOY_TESTS := tests/cluster tests/deploy tests/collapse/test_report_browser.py tests/generation/test_serve.py

.PHONY: help demo test test-kernels test-deploy fuzz kills lint bench docs docker-build docker-smoke clean

help:
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 14

$(READY):
	$(PYTHON) -c 'import sys; sys.exit("biggan needs Python 3.11 or newer: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	@echo "installing into .venv, a few minutes"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)  ## handwritten digits, from nothing to a trained generator and its samples
	test -f data/digits/dataset.json || $(BIN)/biggan pack digits data/digits --resolution 32
	$(BIN)/biggan train configs/digits.yaml
	$(BIN)/biggan sample runs/digits --seed 1 --out runs/digits/digits.png
	$(BIN)/python benchmarks/digits_quality.py runs/digits
	@echo "See runs/digits/digits.png, and the samples during training in runs/digits/samples/"

test: $(READY)  ## the tests, two at a time
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-kernels: $(READY)  ## the tests with numeric bounds, on the kernels that other processors would take
	PYTHON=$(BIN)/python tests/kernels.sh

# The browser, two hosts and Slurm, and what describes containers. As root on Debian: it installs what is missing.
test-deploy: $(READY)  ## manifests, Dockerfile, browser, two hosts and Slurm on this machine (root, Debian)
	tests/deploy/install.sh
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "" $(DEPLOY_TESTS)

# FUZZ_INPUTS and FUZZ_SEED choose how many, and from which number on.
FUZZ_INPUTS ?= 100000
FUZZ_SEED ?= 0

fuzz: $(READY)  ## damaged and hostile overrides, presets and files, FUZZ_INPUTS of them
	BIGGAN_FUZZ=$(FUZZ_INPUTS) BIGGAN_FUZZ_SEED=$(FUZZ_SEED) $(BIN)/python -m pytest tests/test_fuzz.py

# KILLS chooses how many of each run, on one process and on two; KILLS_SEED when.
KILLS ?= 100
KILLS_SEED ?= 0

kills: $(READY)  ## SIGKILL at random moments: every run must end bit for bit as the undisturbed one
	BIGGAN_KILLS=$(KILLS) BIGGAN_KILLS_SEED=$(KILLS_SEED) $(BIN)/python -m pytest tests/faults/test_kills.py tests/faults/test_ring_kills.py

lint: $(READY)  ## ruff, mypy, import-linter, house rules, shellcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python lint/house_rules.py
	$(BIN)/shellcheck launch/*.sh launch/*.sbatch launch/kubernetes/*.sh docker/*.sh tests/*.sh tests/deploy/*.sh .ci/run

bench: $(READY)  ## images per second, as a ratio within one run
	$(BIN)/python benchmarks/throughput.py

docs: $(READY)  ## write docs/configuration.md from the config's docstrings
	$(BIN)/python docs/configuration.py

# TARGET: cpu or cuda. DOCKER_BUILD_ARGS: --build-arg NAME=VALUE ..., as docs/kubernetes.md lists them.
TARGET ?= cpu

docker-build:  ## a container image, TARGET=cpu or cuda
	engine=$$(docker/engine.sh) && DOCKER_BUILDKIT=1 "$$engine" build --file docker/Dockerfile --target $(TARGET) \
	  --build-arg REVISION=$$(git rev-parse HEAD) --tag biggan:$(TARGET) $(DOCKER_BUILD_ARGS) .

docker-smoke:  ## check that the image trains, stops and resumes
	engine=$$(docker/engine.sh) && "$$engine" run --rm --interactive --user 12345:12345 --shm-size 1g \
	  --entrypoint bash biggan:$(TARGET) -s <docker/smoke.sh

clean:  ## remove .venv and caches; data/ and runs/ stay
	rm -rf .venv *.egg-info build dist .import_linter_cache .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
