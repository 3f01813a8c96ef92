# `make demo` and `make test` are all that has to be typed: each first sets up ./.venv, in under a second once that is done.
# An interpreter by its name, if it runs: a version manager's shim may be there, and run nothing.
runs = $(shell $(1) -c 'import sys; print(sys.executable)' 2>/dev/null)
ifndef PYTHON
PYTHON := $(or $(call runs,python3.11),$(call runs,python3.12),$(call runs,python3.13),$(call runs,python3))
endif
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
IMPORTS := import torch._dynamo, torch.utils.tensorboard, lightning.pytorch.cli, metaworld, minari, matplotlib.pyplot, pytest
NATIVE := setup.py pyproject.toml CMakeLists.txt $(shell find csrc -type f)
CODE := moto_pl tests setup.py $(wildcard benchmarks scripts notebooks)
CPP := $(shell find csrc tests/cuda_emulation -type f)

.PHONY: help setup test lint soak demo docs pretrained release-check cuda-check clean
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' Makefile

setup: $(VENV)/.built ## ./.venv with everything that is needed, the compiled operators included

$(VENV)/.packages: constraints.txt
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "PYTHON: found '$(PYTHON)'. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11"; exit 2; }
	@.ci/system-packages $(PYTHON)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "moto_pl: creating ./$(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@echo "moto_pl: installing Python packages (constraints.txt)"
	@$(PIP) install --prefer-binary --no-compile -r constraints.txt
	@# Byte code of what is used rather than of all there is: half a minute less.
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c '$(IMPORTS)' >/dev/null 2>&1 || true
	@touch $@

$(VENV)/.built: $(VENV)/.packages $(NATIVE)
	@PYTHONWARNINGS=ignore $(PIP) install --no-build-isolation --no-deps -e .
	@$(BIN)/python -c 'from moto_pl.ops.extension import status; print("moto_pl:", status())'
	@touch $@

lint: setup ## ruff and mypy, clang-format and clang-tidy
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	@# Files without torch headers: with them, one file takes longer than all of these.
	$(BIN)/clang-tidy --quiet csrc/cpu/isa/*.cpp csrc/cpu/tables.cpp -- -std=c++20 -Icsrc -DMOTO_X86 -DMOTO_ISA=generic -fopenmp-simd

test: lint ## lint, types and all tests
	$(BIN)/pytest -n 2 --dist worksteal --durations=20

soak: setup ## faults injected into whole runs (half an hour on two cores); KILLS=1000 or FUZZ=10000: hours of one kind, from where it stood
	PYTHONPATH=.:tests $(BIN)/python tests/$(if $(KILLS),kills.py --kills $(KILLS) --out benchmarks/results/soak.json,$(if \
	  $(FUZZ),fuzz.py --attempts $(FUZZ) --out benchmarks/results/fuzz.json,soak.py))

demo: setup ## from ten demonstrations to a fine-tuned policy, and a report
	$(BIN)/moto demo

DOCS := .venv-docs
$(DOCS)/.built: pyproject.toml
	@$(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip --disable-pip-version-check -q install -c constraints.txt \
	  $$($(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@touch $@

docs: $(DOCS)/.built ## site/: all pages and the reference, in an environment of their own; open site/index.html
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build

release-check: setup ## what a release needs: versions, licences, and wheels that work in bare environments (minutes, gigabytes)
	$(BIN)/python scripts/check_release.py
	$(BIN)/python scripts/check_wheel.py $(foreach name,python3.11 python3.12 python3.13,$(call runs,$(name)))

pretrained: setup ## what `moto play --pretrained NAME` shows, made from a finished run: make pretrained RUN=runs/demo NAME=drawer-open
	$(BIN)/python scripts/pretrained.py $(RUN) $(NAME)

NVCC ?= $(firstword $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc))
cuda-check: ## compiles every CUDA kernel for sm_80 and sm_90; needs nvcc, no GPU
	@test -n "$(NVCC)" || { echo "nvcc: not found. Install the CUDA toolkit or put nvcc on PATH."; exit 2; }
	@for kernel in csrc/cuda/*.cu; do for arch in 80 90; do \
	  echo "nvcc $$kernel sm_$$arch"; \
	  $(NVCC) -c -std=c++17 -Werror all-warnings -arch=sm_$$arch -Icsrc $$kernel -o /dev/null || exit 1; \
	done; done

clean: ## removes what was built, and ./.venv
	rm -rf $(VENV) $(DOCS) site build *.egg-info moto_pl/_C*.so moto_pl/_build.json .pytest_cache .mypy_cache .ruff_cache
