# `make demo` and `make test` are each the whole set-up: on a fresh clone they need python3 and make, nothing else.
# A second call reuses the environment; it is renewed when pyproject.toml or the constraints change.

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
CONSTRAINTS ?= constraints.txt
JOBS ?= 2
PYTEST_ARGS ?=
GRAPHNETS_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/graphnets

PY := $(VENV)/bin/python
INSTALL = $(PY) -m pip install --quiet $(PIP_ARGS) $(addprefix -c ,$(strip $(CONSTRAINTS)))
ENVIRONMENT = $(VENV)/.created pyproject.toml $(strip $(CONSTRAINTS))
# One thread per test worker: two workers with two threads each are slower than one.
PYTEST = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(PY) -m pytest

export GRAPHNETS_CACHE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test long scatter ray lint format bench docs test-lowest clean

help: ## list the targets and the settings
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'Settings (make TARGET NAME=value):'
	@echo '  PYTHON       interpreter that makes the environment [$(PYTHON)]; make clean before changing it'
	@echo '  PIP_ARGS     arguments for pip, e.g. an index of your own with another build of torch'
	@echo '  CONSTRAINTS  file with the exact versions to install [$(CONSTRAINTS)]; empty: any that pyproject.toml allows'
	@echo '  JOBS         test workers [$(JOBS)]        PYTEST_ARGS  further arguments for pytest'
	@echo '  GRAPHNETS_CACHE  where compiled wheels are kept [$(GRAPHNETS_CACHE)]'

demo: $(VENV)/.base ## train a zoo, learn from its weights, print the table (runs/demo)
	$(PY) -m experiments experiment=weightnet/properties scale=small 'seeds=[0]' output=runs/demo

test: $(VENV)/.test ## the tests of every change, at most 8 minutes on 2 cores
	$(PYTEST) -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

long: $(VENV)/.test ## the tests that take minutes each
	$(PYTEST) -n $(JOBS) --dist worksteal -m long $(PYTEST_ARGS)

scatter: $(VENV)/.scatter ## build the torch-scatter extra and run its parity tests
	$(PYTEST) -m scatter $(PYTEST_ARGS)

ray: $(VENV)/.ray ## install the ray extra and run its tests
	$(PYTEST) -m ray $(PYTEST_ARGS)

lint: $(VENV)/.dev ## ruff, and mypy --strict on the three packages
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.dev ## let ruff repair what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.bench ## run every benchmark, one after the other
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(PY) $$script; done

docs: $(VENV)/.docs ## build the documentation (docs/_build/html), warnings are errors
	$(VENV)/bin/sphinx-build --quiet -W --keep-going -b html docs docs/_build/html
	@echo 'open docs/_build/html/index.html'

# The ranges' lower ends may warn of things their later versions repaired, so warnings are not errors here.
test-lowest: ## run the tests with the lowest versions that pyproject.toml allows (.venv-lowest)
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt PYTEST_ARGS='-W default $(PYTEST_ARGS)'

clean: ## remove the environments and everything built; runs/ and the cache stay
	rm -rf .venv .venv-lowest build dist *.egg-info docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "error: graphnets needs Python 3.10 or newer, but PYTHON=$(PYTHON) is '$$($(PYTHON) --version 2>&1 | tail -n 1)'." >&2; \
	  echo "       Name another interpreter: make $(or $(MAKECMDGOALS),test) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu it comes with the package python3-venv." >&2; exit 1; }
	@$(PY) -m pip install --quiet $(PIP_ARGS) 'pip>=23.1'
	@touch $@

$(VENV)/.base: $(ENVIRONMENT)
	$(INSTALL) -e .
	@touch $@

$(VENV)/.test $(VENV)/.dev $(VENV)/.docs $(VENV)/.ray $(VENV)/.bench: $(VENV)/.%: $(ENVIRONMENT)
	$(INSTALL) -e '.[$(if $(filter ray,$*),test$(comma)ray,$*)]'
	@touch $@

comma := ,

# torch-scatter has no wheels for every torch: it is compiled once against the installed one and kept, by torch's
# version, Python's and the platform. pip's own wheel cache does not know torch's version, so it is not used.
$(VENV)/.scatter: $(VENV)/.test
	@set -e; \
	tag=$$($(PY) -c 'import sys, sysconfig, torch; print(f"torch-{torch.__version__}-{sys.implementation.cache_tag}-{sysconfig.get_platform()}")'); \
	wheels="$(GRAPHNETS_CACHE)/wheels/$$tag"; \
	if ! ls "$$wheels"/torch_scatter-*.whl >/dev/null 2>&1; then \
	  echo "building torch-scatter for $$tag (minutes, once)"; \
	  $(INSTALL) setuptools wheel; \
	  mkdir -p "$$wheels"; build=$$(mktemp -d "$$wheels/build.XXXXXX"); trap 'rm -rf "$$build"' EXIT; \
	  printf '[build_ext]\nparallel = $(JOBS)\n' >"$$build/parallel.cfg"; \
	  DIST_EXTRA_CONFIG="$$build/parallel.cfg" $(PY) -m pip wheel --quiet $(PIP_ARGS) \
	    $(addprefix -c ,$(strip $(CONSTRAINTS))) --no-build-isolation --no-deps --no-cache-dir \
	    --no-binary torch-scatter -w "$$build" 'torch-scatter>=2.1.2'; \
	  mv "$$build"/torch_scatter-*.whl "$$wheels"/; \
	fi; \
	$(PY) -m pip install --quiet --no-index --no-deps --force-reinstall "$$wheels"/torch_scatter-*.whl
	@touch $@
