# Two commands do all the set-up: `make demo` and `make test`. `make help` lists the rest.
#
# A virtual environment that is active is used; otherwise .venv is made. PYTHON, CXX, MAX_JOBS and SEQCUDA_CUDA are
# honoured. A second call does nothing twice: a stamp in the environment for the requirements, one in build/ for the
# compiled module.

VENV := $(or $(VIRTUAL_ENV),.venv)
PY := $(VENV)/bin/python
ENVIRONMENT := $(VENV)/.seqcuda-requirements
BUILT := build/.installed
TREE := $(wildcard csrc/*/*.* csrc/*/*/*.*)
FORMATTED := $(TREE) $(wildcard tests/cpp/*.* tests/cuda_emulation/*.cpp tests/cuda_emulation/*.h tests/cuda_emulation/include/*.h)
ARGS ?=

ifneq ($(words $(VENV)),1)
$(error seqcuda: make cannot use the virtual environment "$(VENV)", whose path has spaces; leave it, and .venv is made)
endif

.DELETE_ON_ERROR:
.PHONY: demo test build check bench cuda cuda-all format lint sdist wheel clean help
.DEFAULT_GOAL := help

demo: build  ## train a language model with torch.nn and with seqcuda (TEXT=file, ARGS="--cell gru")
	$(PY) examples/char_lm.py --backend both $(if $(TEXT),--text "$(TEXT)") $(ARGS)

# Many small tensors: threads that wait must not keep the cores from those that work.
test check: export OMP_WAIT_POLICY ?= passive

test: build  ## the whole test suite (ARGS="-k packed -x" goes to pytest)
	$(PY) -m pytest -n auto --maxprocesses 4 $(ARGS)

build: $(BUILT)  ## the environment and the compiled module, installed editable

check: build  ## self-test of every cell, dtype and engine on this machine
	$(PY) -m seqcuda check $(ARGS)

bench: build  ## paired timing against torch.nn
	$(PY) -m seqcuda bench $(ARGS)

cuda: $(ENVIRONMENT)  ## compile the CUDA kernels for four GPUs and print what each needs; fails where one spills
	$(PY) scripts/cuda_resources.py $(ARGS)

cuda-all: $(ENVIRONMENT)  ## the same for every GPU that nvcc knows
	$(PY) scripts/cuda_resources.py --all $(ARGS)

format: $(ENVIRONMENT)  ## format Python and C++
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .
	$(if $(TREE),$(VENV)/bin/clang-format -i $(FORMATTED))

lint: $(ENVIRONMENT)  ## what CI checks: format and lint of Python and C++
	@status=0; \
	  $(PY) -m ruff format --check . || status=1; \
	  $(PY) -m ruff check . || status=1; \
	  $(if $(TREE),$(VENV)/bin/clang-format --dry-run --Werror $(FORMATTED) || status=1;) \
	  exit $$status

sdist: $(ENVIRONMENT)  ## dist/seqcuda-*.tar.gz
	@mkdir -p dist
	$(PY) -c "from setuptools import build_meta; print(build_meta.build_sdist('dist'))"

wheel: $(ENVIRONMENT)  ## dist/seqcuda-*.whl, for this Python and this torch
	$(PY) -m pip wheel . --no-build-isolation --no-deps --wheel-dir dist

clean:  ## remove what was built (the environment stays)
	rm -rf build dist *.egg-info seqcuda/_C.*.so seqcuda/_C_build.json .pytest_cache .ruff_cache .hypothesis .benchmarks

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(ENVIRONMENT): requirements-dev.txt
	@set -e; python=$$(sh scripts/doctor.sh "$(VENV)"); \
	  test -x $(PY) || { echo "making $(VENV) with $$($$python -V)"; $$python -m venv $(VENV); }
	$(PY) -m pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# Built again when a source changed, or when the last build was for another environment.
ifneq ($(shell cat $(BUILT) 2>/dev/null),$(VENV))
.PHONY: $(BUILT)
endif
$(BUILT): $(ENVIRONMENT) setup.py pyproject.toml $(TREE)
	@sh scripts/doctor.sh "$(VENV)" >/dev/null
	@echo "compiling seqcuda._C"
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@mkdir -p build && echo "$(VENV)" >$@
