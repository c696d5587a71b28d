# make demo   set up, compress the shipped model to several variants, compare them
# make test   set up, run the tests
# make types       set up, check the types of the core and the engine
# make chaos       set up, kill, fill, damage and lock what a run needs, and write docs/reliability.md (twenty minutes on
#                  two cores; SEED=1234 repeats a run's random choices)
# make benchmark   set up, measure speed and quality beside llm-compressor, write docs/benchmarks.md (an hour)
# make results     set up, compress and judge the shipped model by every method and allocation, and study what the papers
#                  leave open; write docs/results.md (hours, see below; what is done is found again)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export HF_HUB_OFFLINE ?= 1
export DO_NOT_TRACK = 1

.PHONY: setup demo test chaos lint types lock clean benchmark results

demo: setup
	espalier compare

# Each process on one thread; the tests of one file stay together, for they share workspaces, and slow files come first.
test: export OMP_NUM_THREADS = 1
test: setup
	python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# One after another: each fault gets the machine for itself, so that the times mean something.
chaos: export CHAOS_SEED = $(SEED)
chaos: setup
	python -m pytest tests/flows/chaos -m chaos -s
	python -m benchmarks.robustness

benchmark: setup
	python -m benchmarks.speed

# Threads that wait asleep: beside other work, those that spin take three times the time.
# On two cores the methods take a quarter of an hour, and so do the four studies together; the ladder takes hours,
# nearly all of them its evolutionary searches.
results: export OMP_WAIT_POLICY = PASSIVE
results: setup
	python -m benchmarks.quality
	python -m benchmarks.allocation
	python -m benchmarks.allocation.starts
	python -m benchmarks.studies calibration-size
	python -m benchmarks.studies probes
	python -m benchmarks.studies fisher-hessian
	python -m benchmarks.studies domain
	python -m benchmarks.recovery
	python -m benchmarks.structured
	python -m benchmarks.structured.accuracy
	python -m benchmarks.structured.speed
	python -m benchmarks.stack

lint: setup
	ruff check .
	ruff format --check .

types: setup
	python -m mypy

setup: $(VENV)/ready

# Torch goes first and exactly: a looser pin in a later step would fetch gigabytes of CUDA packages.
$(VENV)/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11)" || \
		{ echo "Espalier needs Python 3.11 or newer; run: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@echo "Setting up $(VENV): about four minutes the first time"
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(VENV)/ready

# Rewrites the lock from what is installed now; triton exists for Linux only.
lock:
	$(BIN)/python -m pip freeze --all --exclude-editable --exclude pip | \
		sed -e 's/+cpu$$//' -e 's/^triton==.*/& ; platform_system == "Linux"/' > requirements.lock

clean:
	rm -rf .espalier artifacts/tokens artifacts/models artifacts/evaluations
