# make demo: convert the embedded teacher twice and compare.  make test: CTest and pytest.  Both set up what they need.
VENV := .venv
PY := $(VENV)/bin/python
BUILD := build/cmake
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PACKAGES := g++ ninja-build cmake python3-venv python3-dev libgtest-dev
JOBS := $(shell nproc)

.PHONY: demo test check check-all setup install cpp clean quality

demo: install
	$(VENV)/bin/python examples/stdlib_text.py runs/stdlib
	$(VENV)/bin/attnedit convert examples/demo_mla.yaml
	$(VENV)/bin/attnedit convert examples/demo_mla_small.yaml
	$(VENV)/bin/attnedit convert examples/demo_gate_swa.yaml
	$(VENV)/bin/attnedit table runs/demo_mla runs/demo_mla_small runs/demo_gate_swa

test: install cpp
	ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS)
	$(PY) -m pytest -q

# System packages, only where one is missing.
setup: $(VENV)/.system
$(VENV)/.system: Makefile
	@dpkg -s $(PACKAGES) >/dev/null 2>&1 || ($(SUDO) apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq $(PACKAGES))
	@test -x $(PY) || python3 -m venv $(VENV)
	@touch $@

# The package in the virtual environment; built again when a source changes.
install: $(VENV)/.installed
$(VENV)/.installed: $(VENV)/.system pyproject.toml CMakeLists.txt $(shell find csrc python -name '*.cc' -o -name '*.h' -o -name '*.py' -o -name CMakeLists.txt)
	$(PY) -m pip install -q --upgrade pip
	CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(PY) -m pip install -q '.[test]'
	@touch $@

cpp: setup
	cmake -S . -B $(BUILD) -G Ninja -DBUILD_TESTING=ON
	cmake --build $(BUILD) -j $(JOBS)

# Formatters, linters and types for both languages.
check: install
	$(PY) -m pip install -q '.[dev]' clang-format==14.0.6
	$(VENV)/bin/clang-format --dry-run -Werror $(shell git ls-files '*.cc' '*.h')
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# What is too long for every change: sanitizers, and every benchmark's own check of its answers.
check-all: check test
	cmake -S . -B build/sanitize -G Ninja -DBUILD_TESTING=ON -DATTNEDIT_SANITIZE=ON
	cmake --build build/sanitize -j $(JOBS)
	OMP_NUM_THREADS=2 ctest --test-dir build/sanitize --output-on-failure -j $(JOBS)
	dpkg -s libbenchmark-dev >/dev/null 2>&1 || $(SUDO) apt-get install -y -qq libbenchmark-dev
	cmake -S . -B $(BUILD) -G Ninja -DBUILD_TESTING=ON -DATTNEDIT_BENCHMARKS=ON
	cmake --build $(BUILD) -j $(JOBS)
	for b in $(BUILD)/benchmarks/bench_*; do test ! -x $$b || test -d $$b || $$b --benchmark_min_time=0.01 || exit 1; done

clean:
	rm -rf build $(VENV) runs
