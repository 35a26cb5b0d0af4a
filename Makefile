# Two commands on a fresh machine: `make demo` and `make test`. Each makes what it needs: a virtual environment with a
# pinned torch, and the native build.
PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV))/bin
RUN ?= runs/demo
PRESET ?= paper

sources := $(shell find csrc hamiltorch_ext python -type f -not -name '*.pyc') CMakeLists.txt pyproject.toml constraints.txt
native := $(shell find csrc benchmarks tests -name '*.cpp' -o -name '*.h' -o -name '*.cu')

.PHONY: demo test check sanitize pytest smoke benchmark scaling docs clean

demo: $(VENV)/worlds
	$(BIN)/hamiltorch-worlds demo --preset $(PRESET) --run $(RUN)

test: check sanitize pytest smoke

$(VENV)/made:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/worlds: $(VENV)/made $(sources)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt '.[worlds]'
	touch $@

$(VENV)/test: $(VENV)/made $(sources)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt '.[worlds,test]'
	touch $@

check: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(native)
	for page in README.md docs/performance.md; do \
	  $(BIN)/python benchmarks/table.py benchmarks/results/cpu.json --check $$page || exit 1; \
	done
	$(BIN)/python benchmarks/table.py benchmarks/results/cpu-xeon.json --check docs/performance.md --machine xeon
	$(BIN)/python benchmarks/table.py benchmarks/results/cpu-del.json --check docs/performance.md
	$(BIN)/python benchmarks/table.py benchmarks/results/cpu-implicit.json --check docs/performance.md
	$(BIN)/python benchmarks/table.py benchmarks/results/cpu-implicit-xeon.json --check docs/performance.md --machine xeon

# The native core without Python, under the sanitizers; warnings are errors here.
sanitize: $(VENV)/test
	for sanitizers in address,undefined thread; do \
	  $(BIN)/cmake -S . -B build/sanitize-$$sanitizers -G Ninja -DCMAKE_MAKE_PROGRAM=$(BIN)/ninja \
	    -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS=-O1 -DHAMILTORCH_CUDA=OFF -DHAMILTORCH_WARNINGS_AS_ERRORS=ON \
	    -DHAMILTORCH_SANITIZE=$$sanitizers > /dev/null && \
	  $(BIN)/cmake --build build/sanitize-$$sanitizers -- --quiet && \
	  UBSAN_OPTIONS=halt_on_error=1 TSAN_OPTIONS=halt_on_error=1 \
	    $(BIN)/ctest --test-dir build/sanitize-$$sanitizers --output-on-failure -j 2 || exit 1; \
	done

# Two processes; in each one thread but where a test asks for more: they would wait for one another.
pytest: $(VENV)/test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

smoke: $(VENV)/test
	rm -rf build/smoke
	$(BIN)/hamiltorch-worlds demo --preset quick --run build/smoke

$(VENV)/bench: $(VENV)/made $(sources)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt '.[bench]'
	touch $@

benchmark: $(VENV)/bench
	$(BIN)/python benchmarks/run.py --output benchmarks/results/$(shell hostname)-cpu.json

scaling: $(VENV)/bench
	$(BIN)/python benchmarks/scaling.py --output benchmarks/results/$(shell hostname)-scaling.json

docs: $(VENV)/made $(sources)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt '.[docs,worlds]'
	$(BIN)/mkdocs build --strict

clean:
	rm -rf build dist site $(VENV)
