# The interpreter that the virtual environment is made from, and where: make test PYTHON=python3.13 VENV=.venv-3.13
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
DB ?= sqlite
WORKERS ?= 1
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
# Where it is set, every process compiles all that it imports anew.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help setup develop demo serve test check prove cold lint crash-matrix storm capacity bench container-check \
	package-check release lock clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv with what the service needs
	@$(call install,requirements.lock,--clear)

develop: setup ## add the tools that all checks need
	@$(call install,dev.lock)

demo: setup ## watch tasks run against the provider's twin, ARGS=--once for one
	@$(BIN)/fluxhook demo $(ARGS)

serve: setup ## run the service, settings from FLUXHOOK_ variables
	@$(BIN)/fluxhook serve $(ARGS)

test: setup ## run the tests that a change is made beside, ARGS for pytest
	@$(call install,test.lock)
	@$(BIN)/pytest -n auto $(ARGS)

check: develop ## run the tests that `make test` leaves out: PostgreSQL, browser, fuzzing, processes
	@$(BIN)/pytest -n auto -m check $(ARGS)

# Whatever is compiled or built on first use is built anew, on one processor, beside something that wants it too.
cold: develop ## run the property tests and what starts a process on a slow machine with cold caches
	@caches=$$(mktemp -d); \
	pin=$$(command -v taskset >/dev/null && echo taskset -c 0); \
	$$pin sh -c 'while :; do :; done' & busy=$$!; \
	trap "kill $$busy; rm -rf $$caches" EXIT; \
	HYPOTHESIS_PROFILE=cold HYPOTHESIS_STORAGE_DIRECTORY=$$caches/hypothesis PYTHONPYCACHEPREFIX=$$caches/compiled \
	  $$pin $(BIN)/pytest -p no:cacheprovider -m "(hypothesis and not proof) or process" $(ARGS)

lint: develop ## check style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/phrase-check

prove: develop ## run short forms of the three proofs below, with real kills, and search longer for each property
	@HYPOTHESIS_PROFILE=prove $(BIN)/pytest -m "proof or hypothesis" $(ARGS)

crash-matrix: develop ## crash at every statement and external call, DB=postgres, ARGS=--write for the document
	@PYTHONPATH=. $(BIN)/python -m tests.proof.crash_matrix --db $(DB) $(ARGS)

storm: setup ## thousands of tasks, killed processes, the count; DB=postgres WORKERS=3, ARGS='--tasks 300'
	@$(BIN)/python -m tests.proof.storm --db $(DB) --workers $(WORKERS) $(ARGS)

capacity: setup ## what two replicas make of the slots, and what 10,000 waiting tasks take; a quarter of an hour
	@$(BIN)/python -m tests.proof.capacity $(ARGS)

bench: setup ## measure callbacks beside what bounds them, ARGS='--quick --json FILE' for less than a minute
	@$(BIN)/python -m benchmarks $(ARGS)

container-check: ## build the image, run compose on PostgreSQL and prove it, as root on Debian
	@$(PYTHON) .ci/container-check

package-check: ## build the wheel, install it into a clean environment and run it from an empty folder
	@$(PYTHON) .ci/package-check

release: ## say how a release is made and what is missing for one, and change nothing
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

# A lock is complete, so what it names is installed and nothing resolved again (--no-deps): one client that the tests
# try asks for an old Pillow, see pyproject.toml.
# Whether the environment fits is asked of the lock's digest and the folder, not of file times: a fresh clone or a
# branch switch changes those. --clear, so that what a lock no longer names is gone.
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

# The checkout goes on the path and gets its command without a build back end, so nothing unlocked runs.
define link_project
pwd > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/fluxhook.pth"; \
printf '%s\n' "$$COMMAND" > $(BIN)/fluxhook; chmod +x $(BIN)/fluxhook
endef

# sh starts it and Python reads on, because a #! line cannot name a path with a space in it.
define COMMAND
#!/bin/sh
'''exec' "$(CURDIR)/$(BIN)/python" "$$0" "$$@"
' '''
import sys

from app.cli import main

sys.exit(main())
endef
export COMMAND
