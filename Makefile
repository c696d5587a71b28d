# make demo   set up, compress the shipped model to several variants, compare them
# make check  set up; lint, types and the unit tests of the core
# make test   set up, run the tests of every day
# make test-all    the long ones too: the tutorials, what asks the same in another way, the extras, chaos; an hour
# make test-extras install the extra onnx, test what needs it (EXTRAS="onnx gguf" builds llama.cpp too: ten minutes more)
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

.PHONY: setup demo check test test-all test-extras chaos lint types lock clean benchmark results

demo: setup
	espalier compare

# Each process on one thread; the tests of one file stay together, for they share workspaces, and slow files come first.
PYTEST := python -m pytest -n auto --dist loadfile --no-loadscope-reorder
check test test-all test-extras: export OMP_NUM_THREADS = 1

check: lint
	$(PYTEST) -m "not slow and not long and not chaos" tests/pruning_core tests/test_rooms.py tests/test_architecture.py

test: setup
	$(PYTEST)

# Chaos one after another and on all cores, as `make chaos` runs it, but the figures in the docs stay.
test-all: test test-extras
	$(PYTEST) -m long
	env -u OMP_NUM_THREADS CHAOS_FIGURES=$$(mktemp -d)/figures.json python -m pytest tests/flows/chaos -m chaos -s

# What comes with an extra is no part of requirements.lock, and moves nothing that is.
EXTRAS ?= onnx
PINS := import sys, tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
	print(*(pin for name in sys.argv[1:] for pin in extras[name]))
ONNX_COMMAND := test_an_onnx_export_is_judged_and_timed_by_onnx_runtime_and_read_by_ourselves
test-extras: setup
	python -m pip install --quiet --disable-pip-version-check -c requirements.lock $$(python -c '$(PINS)' $(EXTRAS))
	$(PYTEST) tests/pruning_core/export/onnx tests/pruning_core/evaluation/test_onnx_runtime.py \
		tests/pruning_core/evaluation/test_llama_cpp.py tests/pruning_core/evaluation/test_loading.py \
		tests/benchmarks/serving tests/flows/test_export_command.py::$(ONNX_COMMAND)

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

lint: setup types
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
