# Interpreter and location of the virtual environment: make test PYTHON=python3.13 VENV=.venv-3.13
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
DB ?= sqlite
WORKERS ?= 1
FAULTS ?= kills
ACCOUNTS ?= 1
BIN := $(VENV)/bin
# Neighbouring tests share a process, so most fixtures of a module are made once; a process that has finished takes tests
# from the other.
SPREAD := --dist worksteal

.DEFAULT_GOAL := help
# If it is set, every process recompiles all modules that it imports.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help setup develop demo serve test check prove cold lint security crash-matrix storm attack capacity neighbours distance bench container-check \
	package-check release lock clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## create .venv with the dependencies of the service
	@$(call install,requirements.lock,--clear)

develop: setup ## add the tools for all checks
	@$(call install,dev.lock)

demo: setup ## run demo tasks against the provider's twin, ARGS=--once for a single run
	@$(BIN)/fluxhook demo $(ARGS)

serve: setup ## run the service with settings from FLUXHOOK_ variables
	@$(BIN)/fluxhook serve $(ARGS)

test: setup ## run the fast tests for use during development, ARGS for pytest
	@$(call install,test.lock)
	@$(BIN)/pytest -n auto $(SPREAD) $(ARGS)

check: develop ## run the tests that `make test` omits: PostgreSQL, browser, fuzzing, processes
	@$(BIN)/pytest -n auto $(SPREAD) -m check $(ARGS)

# Everything that is compiled or built on first use is rebuilt, on one CPU, in competition with a busy process. With
# LOAD= there is none, for use beside other jobs, which are load enough.
cold: LOAD = while :; do :; done
cold: develop ## run property and process tests as on a slow machine with cold caches
	@caches=$$(mktemp -d); \
	pin=$$(command -v taskset >/dev/null && echo taskset -c 0); \
	$$pin sh -c '$(LOAD)' & busy=$$!; \
	trap "kill $$busy 2>/dev/null; rm -rf $$caches" EXIT; \
	HYPOTHESIS_PROFILE=cold HYPOTHESIS_STORAGE_DIRECTORY=$$caches/hypothesis PYTHONPYCACHEPREFIX=$$caches/compiled \
	  $$pin $(BIN)/pytest -p no:cacheprovider -m "(hypothesis and not proof) or process" $(ARGS)

lint: develop ## check style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/phrase-check
	$(BIN)/python .ci/security-rules

security: develop ## look for unsafe code and for secrets in the files, half a minute at most
	$(BIN)/bandit --quiet --configfile pyproject.toml --severity-level medium --recursive app migrations
	$(BIN)/python .ci/security-rules
	$(BIN)/python .ci/secret-scan

prove: develop ## run short forms of the proofs below with real kills, and longer property searches
	@HYPOTHESIS_PROFILE=prove $(BIN)/pytest -n 2 $(SPREAD) -m "proof or hypothesis" $(ARGS)

crash-matrix: develop ## crash at every statement and external call, DB=postgres; ARGS=--write updates the document
	@PYTHONPATH=. $(BIN)/python -m tests.proof.crash_matrix --db $(DB) $(ARGS)

storm: setup ## run thousands of tasks, kill processes, check the results; DB=postgres WORKERS=3 FAULTS=network or ACCOUNTS=3, ARGS='--tasks 150'
	@$(BIN)/python -m tests.proof.storm --db $(DB) --workers $(WORKERS) --faults $(FAULTS) --accounts $(ACCOUNTS) $(ARGS)

attack: setup ## send a million mutated callbacks to a running service, DB=postgres, ARGS='--count 20000 --seconds 60'
	@$(BIN)/python -m tests.proof.attack --db $(DB) $(ARGS)

capacity: setup ## measure slot use of two replicas and 10,000 waiting tasks; takes a quarter of an hour
	@$(BIN)/python -m tests.proof.capacity $(ARGS)

neighbours: setup ## measure a quiet application beside a noisy one, ARGS='--only uploads'
	@$(BIN)/python -m tests.proof.neighbours $(ARGS)

distance: setup ## measure tasks a second by the length of a round trip to PostgreSQL, ARGS='--seconds 20 5 50'
	@$(BIN)/python -m tests.proof.distance $(ARGS)

bench: setup ## measure callbacks and what limits them, ARGS='--quick --json FILE' for less than a minute
	@$(BIN)/python -m benchmarks $(ARGS)

container-check: ## build the image and test it with compose on PostgreSQL, as root on Debian
	@$(PYTHON) .ci/container-check

package-check: develop ## build the wheel, install it into a clean environment and run it, ARGS='--sbom FILE'
	@$(BIN)/python .ci/package-check $(ARGS)

release: ## print the release steps and the problems that block a release; changes nothing
	@$(PYTHON) .ci/release

lock: ## refresh the locks (needs uv), ARGS=--upgrade for newer versions
	@$(COMPILE) pyproject.toml -o requirements.lock
	@$(COMPILE) pyproject.toml --group dev -c requirements.lock -o dev.lock
	@$(COMPILE) pyproject.toml --group test -c dev.lock -o test.lock
	@! grep -n '://' requirements.lock dev.lock test.lock

clean: ## remove virtual environments and caches, never data
	rm -rf .venv .venv-* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find app benchmarks migrations tests -name __pycache__ -type d -prune -exec rm -rf {} +

COMPILE = uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	--python-version 3.11 --custom-compile-command "make lock" $(ARGS)

# A lock is complete, so its packages are installed without dependency resolution (--no-deps): one client in the tests
# requires an old Pillow, see pyproject.toml.
# The lock's checksum and the folder decide whether the environment is current, not file times: a fresh clone or a
# branch switch changes those. --clear removes packages that the lock no longer names.
define install
set -eu; \
want="$$(pwd) $$(cksum < $(1))"; \
if [ ! -x $(BIN)/fluxhook ] || [ ! -x $(BIN)/python ] || [ "$$(cat $(VENV)/$(1).done 2>/dev/null)" != "$$want" ]; then \
  echo "Installing $(1) into $(VENV) (once; a few seconds)"; \
  $(if $(2),$(fresh_venv);) \
  if command -v uv >/dev/null; then \
    uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r $(1); \
  else \
    $(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r $(1); \
  fi; \
  $(if $(2),$(link_project);) \
  echo "$$want" > $(VENV)/$(1).done; \
fi
endef

define fresh_venv
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "Fluxhook needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }; \
$(PYTHON) -m venv --clear $$(command -v uv >/dev/null && echo --without-pip) $(VENV)
endef

# The checkout is added to the path and gets its command without a build back end, so no unlocked code runs.
define link_project
pwd > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/fluxhook.pth"; \
printf '%s\n' "$$COMMAND" > $(BIN)/fluxhook; chmod +x $(BIN)/fluxhook
endef

# sh starts the script and Python continues, because a #! line cannot contain a path with a space.
define COMMAND
#!/bin/sh
'''exec' "$(CURDIR)/$(BIN)/python" "$$0" "$$@"
' '''
import sys

from app.cli import main

sys.exit(main())
endef
export COMMAND
