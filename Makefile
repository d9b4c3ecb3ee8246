# make demo: convert the embedded teacher three times and compare.  make test: CTest and pytest.  Both set up what they need.
VENV := .venv
PY := $(VENV)/bin/python
BUILD := build/cmake
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PACKAGES := g++ ninja-build cmake python3-venv python3-dev libgtest-dev
JOBS := $(shell nproc)
# The interpreter that has torch and transformers: the peer of benchmarks, and what exported folders are loaded in.
PEER := $(or $(ATTNEDIT_PEER_PYTHON),.venv-peer/bin/python)
HAS_PEER = $(PEER) -c "from importlib.metadata import version as v; v('torch'), v('transformers')" 2>/dev/null

.PHONY: demo test parity parity-table check check-all check-neon bench bench-long bench-plots bench-tools peer setup fuzz soak
.PHONY: install cpp clean scaling races memcheck asan-python

demo: install
	$(VENV)/bin/python examples/stdlib_text.py runs/stdlib
	$(VENV)/bin/attnedit convert examples/demo_mla.yaml
	$(VENV)/bin/attnedit convert examples/demo_mla_small.yaml
	$(VENV)/bin/attnedit convert examples/demo_gate_swa.yaml
	$(VENV)/bin/attnedit table runs/demo_mla runs/demo_mla_small runs/demo_gate_swa

test: install cpp
	ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS)
	$(PY) -m pytest -q --ignore=tests/python/parity
	$(MAKE) --no-print-directory parity

# Exported folders in transformers' own classes. The peer's packages come first, attnedit and pytest are found behind them.
parity: install peer
	@if $(HAS_PEER); then $(PEER) -c "import glob, sys; sys.path += glob.glob('$(VENV)/lib/python3*/site-packages'); \
	  import pytest; sys.exit(pytest.main(['-q', 'tests/python/parity']))"; \
	else echo "tests/python/parity is skipped: it needs torch and transformers, which cannot be installed here"; fi

# The figures of README's table of exports.
parity-table: install peer
	PYTHONPATH=tests $(PEER) -c "import glob, runpy, sys; sys.path += glob.glob('$(VENV)/lib/python3*/site-packages'); \
	  runpy.run_path('tests/python/parity/table.py', run_name='__main__')"

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
check-all: check test check-neon bench-tools
	cmake -S . -B build/sanitize -G Ninja -DBUILD_TESTING=ON -DATTNEDIT_SANITIZE=ON
	cmake --build build/sanitize -j $(JOBS)
	OMP_NUM_THREADS=2 ctest --test-dir build/sanitize --output-on-failure -j $(JOBS)
	$(MAKE) --no-print-directory asan-python races memcheck soak
	$(PY) benchmarks/run.py --quick
	$(MAKE) --no-print-directory scaling

# The Python tests that reach kernels, under AddressSanitizer and UndefinedBehaviorSanitizer. Python itself has neither,
# so their library is there before it; what it leaks is its own, and the C++ tests look for ours. The library's memory and
# terabytes of addresses are too much for the two that are left out.
asan-python: install
	CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(PY) -m pip install -q --no-deps --upgrade --target build/asan-python/site . \
	  -C build-dir=build/asan-python/cmake -C cmake.define.ATTNEDIT_SANITIZE=ON
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" OMP_NUM_THREADS=2 \
	  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 PYTHONPATH=build/asan-python/site \
	  $(PY) -m pytest -q --capture=sys $(addprefix tests/python/,$(KERNEL_TESTS)) \
	  --ignore=tests/python/activations/test_memory.py --deselect=tests/python/generate/test_generate.py::test_the_command_chats
KERNEL_TESTS := ops runtime activations models edit distill generate evaluate test_autograd.py test_bad_arguments.py \
  test_bad_numbers.py test_compute.py test_profile.py test_threads.py

# ThreadSanitizer over everything that runs on more than one thread.
races: setup
	cmake -S . -B build/races -G Ninja -DBUILD_TESTING=ON -DATTNEDIT_SANITIZE=thread
	cmake --build build/races -j $(JOBS)
	OMP_NUM_THREADS=3 ctest --test-dir build/races --output-on-failure -E Beyond32Bits -j $(JOBS)

# The runtime under valgrind, which knows no AVX-512 and flushes no subnormals.
memcheck: cpp
	@command -v valgrind >/dev/null || ($(SUDO) apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq valgrind)
	ATTNEDIT_ISA=portable OMP_NUM_THREADS=2 valgrind --quiet --error-exitcode=9 --leak-check=full --fair-sched=yes \
	  --errors-for-leak-kinds=definite --suppressions=tests/cpp/support/valgrind.supp $(BUILD)/tests/cpp/attnedit_tests \
	  --gtest_filter='Backend*:Device*:Event*:LostFile*:Memory*:Parallel*:Profile*:Rehearsal*:Stream*:-Parallel.FlushesSubnormals*'

# What plan says of memory, disk and time at Qwen3-0.6B's width, two layers deep, beside what a run takes.
scaling: install
	rm -rf build/scaling && mkdir -p build/scaling
	$(PY) benchmarks/scaling/make_checkpoint.py qwen3-0.6b build/scaling/checkpoint --layers 2
	$(PY) benchmarks/scaling/measure.py build/scaling/checkpoint --length 512 --tokens 4096 --calibrate --scratch build/scaling
	rm -rf build/scaling

# Every parser under a coverage-guided fuzzer: make fuzz SECONDS=60 T=config. What it found before is where it begins.
SECONDS := 60
fuzz: install
	$(PY) -m pip install -q atheris
	$(PY) tests/fuzz/run.py $(SECONDS) $(T)

# Conversions that are killed, starved, moved and damaged, and must end with the same bits: make soak KILLS=1000 SEED=7.
KILLS := 100
SEED := 0
soak: install
	$(PY) tests/soak/soak.py --kills $(KILLS) --seed $(SEED)

# The same sources for ARM: they compile, and their products are NEON's multiply-adds.
check-neon:
	@command -v aarch64-linux-gnu-g++ >/dev/null || ($(SUDO) apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq g++-aarch64-linux-gnu)
	cmake -S . -B build/aarch64 -G Ninja -DBUILD_TESTING=OFF -DCMAKE_SYSTEM_NAME=Linux \
	  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
	cmake --build build/aarch64 -j $(JOBS) --target attnedit_core
	aarch64-linux-gnu-objdump -d build/aarch64/csrc/libattnedit_core.a | grep -q 'fmla.*\.4s'

# Every kernel beside its peers and the machine's limits, or one, or the cases with this in their name:
# make bench K=attention CASE=T2048. Then the table and the pictures.
WANTED = $(K) $(if $(CASE),--case "$(CASE)")
bench: bench-tools
	$(PY) benchmarks/run.py $(WANTED)
	$(PY) benchmarks/plots.py
	$(PY) benchmarks/table.py

# The cases that take minutes each: long contexts over the whole vocabulary.
bench-long: bench-tools
	$(PY) benchmarks/run.py --long $(WANTED)

# benchmarks/results.csv as a table, and as pictures of cost against length, window, vocabulary and threads.
bench-plots: install
	$(PY) benchmarks/plots.py
	$(PY) benchmarks/table.py

# The program that measures the limits, and the peer. Without it ours runs alone.
bench-tools: install peer
	cmake -S . -B $(BUILD) -G Ninja -DATTNEDIT_BENCHMARKS=ON
	cmake --build $(BUILD) -j $(JOBS) --target limits

# PyTorch's own index has the build without CUDA; where it cannot be reached, whatever build the usual one gives.
peer: setup
	@$(HAS_PEER) || (python3 -m venv .venv-peer && \
	  (.venv-peer/bin/pip install -q --retries 0 --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 2>/dev/null || \
	   .venv-peer/bin/pip install -q torch==2.13.0) && .venv-peer/bin/pip install -q 'transformers>=5.23') || \
	  (rm -rf .venv-peer && echo "torch and transformers cannot be installed: what needs them is skipped")
	@test ! -x .venv-peer/bin/python || .venv-peer/bin/pip install -q 'lm-eval>=0.4.13' accelerate || \
	  echo "lm-eval cannot be installed: its tests are skipped"

clean:
	rm -rf build $(VENV) .venv-peer runs
