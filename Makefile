# The commands of this project, for people and for CI alike. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
SCENE ?=
ARGS ?=
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.belvedere-installed
NODE_STAMP := tests/splat_transform/node_modules/.belvedere-installed
SANITIZE_DIR := build/sanitize

BUILD_TOOLS := cmake nanobind ninja scikit-build-core
NATIVE_SOURCES := CMakeLists.txt $(shell find rendering/native rendering/models/native \
	scene_store/native -type f \
	-not -name '*.py*' -not -name '*.so')
NATIVE_TESTS ?= $(wildcard tests/test_native*.py tests/test_pair.py tests/test_fitting.py \
	tests/store/test_native*.py tests/store/test_gather.py tests/store/test_merge.py \
	tests/models/test_native*.py tests/models/test_anchors_decoder.py \
	tests/models/test_paged_fields.py)

.PHONY: help setup setup-browser setup-node run check format test check-native bench clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything into .venv and build the native code

# One editable install serves `run` and `test`; an edited C++ source costs one rebuild.
# Without build isolation the compiler's output is kept in build/ from one install to the next.
$(STAMP): pyproject.toml constraints.txt $(NATIVE_SOURCES)
	@scripts/check_system.sh $(PYTHON)
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt $(BUILD_TOOLS)
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

setup-browser: setup ## Find or install a Chromium for the browser tests
	@scripts/setup_browser.sh

setup-node: $(NODE_STAMP) ## Install the third-party converter that formats are checked against

$(NODE_STAMP): tests/splat_transform/package.json tests/splat_transform/package-lock.json
	@scripts/setup_node.sh
	@if [ -d $(@D) ]; then touch $@; fi

run: setup ## Open the viewer: the built-in town, or SCENE=path
	$(BIN)/belvedere view $(SCENE) $(ARGS)

check: setup ## Linters and type checker
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: setup ## Format the Python sources and fix what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# All tests keep several processes busy; a few are done before these would have begun.
TEST_PROCESSES ?= $(if $(strip $(PYTEST_ARGS)),0,auto)

test: setup setup-browser setup-node ## All tests (PYTEST_ARGS='-k ply' for some)
	$(BIN)/python -m pytest --numprocesses=$(TEST_PROCESSES) --maxprocesses=8 --dist=worksteal \
		$(PYTEST_ARGS)

check-native: setup ## The native tests under AddressSanitizer and UBSan
	@test -n "$(NATIVE_TESTS)" || { echo "There are no tests/**/test_native*.py" >&2; exit 1; }
	$(BIN)/cmake -S . -B $(SANITIZE_DIR) -G Ninja -DBELVEDERE_SANITIZE=ON \
		-DCMAKE_BUILD_TYPE=RelWithDebInfo \
		-DCMAKE_MAKE_PROGRAM="$(abspath $(BIN))/ninja" \
		-DPython_EXECUTABLE="$(abspath $(BIN))/python" \
		-Dnanobind_DIR="$$($(BIN)/python -m nanobind --cmake_dir)"
	$(BIN)/cmake --build $(SANITIZE_DIR)
	scripts/with_sanitizers.sh $(SANITIZE_DIR) \
		$(BIN)/python -m pytest $(NATIVE_TESTS) $(PYTEST_ARGS)

bench: setup ## The benchmarks (ARGS='--only raster')
	$(BIN)/belvedere bench $(ARGS)

clean: ## Remove what was built, keep .venv
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
