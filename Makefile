# make demo   set up, then images -> masks -> features -> learners -> report, on drawn phantoms
# make test   set up, then the tests
.PHONY: setup demo test lint
.ONESHELL:
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
export SAM2_BUILD_CUDA := 0
export UV_COMPILE_BYTECODE := 1
ARGS := --quiet --constraint constraints.txt
# uv takes a third of pip's time. Where it fails, for example since only pip.conf names the index,
# pip installs the same versions. All is compiled once, since some environments keep no bytecode.
install = $(BIN)/uv pip install --python $(BIN)/python $(ARGS) $(1) || $(BIN)/python -m pip install $(ARGS) $(1)

setup: $(VENV)/ready

# sam2 builds against the installed torch: in an environment of its own a second one would be
# fetched. Its optional CUDA extension is not used here.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(ARGS) uv || true
	$(call install,setuptools wheel torch torchvision)
	$(call install,--no-build-isolation sam2)
	$(call install,--no-build-isolation --editable '.[test]')
	touch $@

demo: setup
	export PATH="$(BIN):$$PATH"
	python examples/demo.py
	cd demo
	pipeline data sample --images 56
	# Two datasets at a time, a core each; what is left for the second line is the report.
	# MedFocus is trained before its probe, which then starts from its fits.
	printf '%s\n' brain breast lung covid |
	  OMP_NUM_THREADS=1 LOKY_MAX_CPU_COUNT=1 xargs -P 2 -I SET sh -c '
	    dvc --wait-for-lock repro train@SET-medfocus
	    dvc --wait-for-lock repro evaluate@SET compare@SET prompt_quality@SET'
	dvc repro
	pipeline status
	echo "Open demo/report/index.html"

test: setup
	export PATH="$(BIN):$$PATH"
	python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
