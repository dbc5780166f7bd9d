# Cobalt Relay on this machine. `make` lists what there is; GNU make 3.81 and Python 3.13 are all it needs.

# An interpreter to use instead of the python3.13 or python3 on the PATH.
PYTHON ?=
# make logs F=1 follows; make lock UPGRADE=1 takes newer versions; make audit GATES="semgrep bandit" runs those two.
F ?=
UPGRADE ?=
GATES ?=
ONLY ?=
# make redrive DRY=1 only shows; STACK=name means a stack on AWS. Never taken from the environment: it may hold another's.
DRY :=
STACK :=

ifneq ($(firstword $(sort 3.81 $(MAKE_VERSION))),3.81)
$(error GNU make $(MAKE_VERSION) is too old: 3.81 or newer is needed (apt install make, or brew install make and gmake))
endif

# Empty where no stack can be running: then nothing has to be installed to say so.
UP := $(wildcard .local/up)
NOTHING_IS_UP = { echo "No stack is running. Start one with make up." >&2; exit 1; }
BIN := .venv/bin
# For programs that import what is deployed; pytest finds it by itself.
OURS := PYTHONPATH=layers/relay $(BIN)/python
LOCAL := $(BIN)/python -m tools.local
REDRIVE = $(BIN)/relay $(if $(STACK),--stack '$(STACK)',--local) redrive $(if $(DRY),--dry-run)
COMPILE := $(BIN)/uv pip compile --quiet --no-config --no-header --universal --python-version 3.13 --generate-hashes \
	$(if $(UPGRADE),--upgrade)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX
export SAM_CLI_TELEMETRY := 0
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help demo up down logs redrive test bench soak dashboard fuzz check audit docs fix lock clean environment auditors renderers

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s%s\n", $$1, $$2 }' Makefile
	@echo ".venv/bin/relay --help: operate a stack, on AWS or with --local (make environment puts it there)"

demo: environment ## The main job as a story: curl, webhook, S3, event, schedule
	@$(LOCAL) demo

up: environment ## The same stack left running, or brought up to date
	@$(LOCAL) up

down: $(if $(UP),environment) ## Stop what `make up` started and remove its state
	@$(if $(UP),$(LOCAL) down,echo "No stack was running.")

logs: $(if $(UP),environment) ## What the functions logged, oldest first; F=1 follows
	@$(if $(UP),$(LOCAL) logs $(if $(F),--follow),$(NOTHING_IS_UP))

redrive: $(if $(UP)$(STACK),environment) ## Put failed runs and events back; DRY=1 shows, STACK=name on AWS
	@$(if $(UP)$(STACK),$(REDRIVE),$(NOTHING_IS_UP))

# The unit tests run on the packages of the built layer, trimmed as they are deployed; what only tests call of AWS has its
# models in .venv. The functions of the deployed stack run on that layer anyway.
test: check ## The checks, then every test, with coverage
	@$(LOCAL) build
	@PYTHONPATH=.local/build/DependenciesLayer/python AWS_DATA_PATH=$(BIN)/../lib/python3.13/site-packages/botocore/data \
		$(BIN)/python -m pytest tests/unit --numprocesses 3 --dist loadfile --cov --cov-report=
	@# In the order of their folders: the longest begin early.
	@$(BIN)/python -m pytest --ignore tests/unit --numprocesses 3 --dist loadfile --no-loadscope-reorder \
		--cov --cov-append --cov-report=term

bench: environment ## Figures beside their rivals of the same run; ONLY=calls,package measures those two
	@$(OURS) -m bench $(if $(ONLY),--only $(ONLY))

soak: environment ## All crash cases; 1,000 fetches while much goes wrong; all that it holds, 5 minutes; N=300, MINUTES=1
	@ANY_ORDER_EXAMPLES=1000 $(BIN)/python -m pytest --quiet --every-case tests/faults
	@$(OURS) -m tests.soak $(if $(N),--fetches $(N))
	@$(OURS) -m tests.soak.load $(if $(MINUTES),--minutes $(MINUTES))

dashboard: environment ## Draw docs/assets/dashboard.svg from what the last soak measured
	@$(BIN)/python -m tools.dashboard

fuzz: environment ## Thousands of made-up calls, held against docs/openapi.yaml; N=1000 per route
	@$(OURS) -m tests.fuzz $(if $(N),--cases $(N))

check: environment ## Format, lint, types, template; changes nothing
	@$(LOCAL) check

audit: environment auditors ## Rule sets for security over template, code and contract
	@$(BIN)/python -m tools.audit $(GATES)

docs: environment renderers ## The contracts as pages, in docs/html: openapi.html, asyncapi.html
	@$(BIN)/python -m tools.docs

fix: environment ## Mend what the checks can mend
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

lock: environment ## Pin the packages anew; UPGRADE=1 takes newer versions
	@$(COMPILE) requirements/dev.in --output-file requirements/dev.txt
	@$(COMPILE) --constraints requirements/dev.txt layers/dependencies/requirements.in \
		--output-file layers/dependencies/requirements.txt
	@$(COMPILE) requirements/audit.in --output-file requirements/audit.txt
	@$(COMPILE) --constraints requirements/dev.txt bench/rivals/requirements.in --output-file bench/rivals/requirements.txt
	@cd tools/audit && npm install --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved --loglevel=error

clean: ## Stop the stack; remove .venv, .audit, .local, .aws-sam, docs/html and the caches
	@# By hand, for .venv may be gone already. A server is ours if its command line names our folder.
	@for pid in $$(find .local -name '*.pid' ! -path '*/tmp/*' -exec cat {} \; 2>/dev/null); do \
		case "$$(ps -ww -o args= -p $$pid)" in *"$(CURDIR)/.local/"*) kill $$pid; \
			for tenth in $$(seq 100); do if kill -0 $$pid 2>/dev/null; then sleep 0.1; fi; done ;; esac; done
	@rm -rf .venv .audit .local .aws-sam docs/html .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* htmlcov
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The marker is written last: an interrupted installation is done again, a finished one never. It holds the folder too,
# for the scripts of a virtual environment stop working when it is moved.
environment:
	@if { echo "$(CURDIR)"; cat requirements/dev.txt; } 2>/dev/null | cmp -s - .venv/installed.txt && \
		$(BIN)/python -c '' 2>/dev/null; then exit 0; fi; \
	python=$$(sh tools/find_python.sh "$(PYTHON)") || exit 1; \
	echo "Installing the environment into .venv (once, about a minute) ..."; \
	trap 'echo "Interrupted. The next make installs it anew." >&2; exit 130' INT; \
	said=$$({ "$$python" -m venv --clear .venv && \
		$(BIN)/python -m pip install -qq --no-input --require-hashes --requirement requirements/dev.txt; } 2>&1) || \
		{ printf '%s\n' "$$said"; echo "The environment could not be installed: mend that, then run make again."; exit 1; } >&2; \
	{ echo "$(CURDIR)"; cat requirements/dev.txt; } > .venv/installed.txt
	@# The command `relay`, from any folder: -P, so that nothing of that folder is taken for ours.
	@launcher() { printf '#!/bin/sh\nPYTHONPATH="$(CURDIR):$(CURDIR)/layers/relay" exec "$(CURDIR)/.venv/bin/python" -P -m tools.relay "$$@"\n'; }; \
	if ! launcher | cmp -s - $(BIN)/relay; then launcher > $(BIN)/relay && chmod 755 $(BIN)/relay; fi

# The tools of `make audit`, which pin too much to live in .venv; the markers are as above. A fork of detect-secrets that
# checkov brings comes once more, last: both lie in one folder, whichever is unpacked later stays, and the fork finds more.
auditors: environment renderers
	@if { echo "$(CURDIR)"; cat requirements/audit.txt; } | cmp -s - .audit/venv/installed.txt && \
		.audit/venv/bin/python -c '' 2>/dev/null; then exit 0; fi; \
	echo "Installing the tools of the audit into .audit (once, about a minute) ..."; \
	said=$$({ $(BIN)/uv venv --quiet --no-config --clear --python $(BIN)/python .audit/venv && \
		$(BIN)/uv pip install --quiet --no-config --require-hashes --python .audit/venv/bin/python \
			--requirement requirements/audit.txt && \
		$(BIN)/uv pip install --quiet --no-config --require-hashes --python .audit/venv/bin/python --no-deps \
			--reinstall-package bc-detect-secrets --requirement requirements/audit.txt; } 2>&1) || \
		{ printf '%s\n' "$$said"; echo "They could not be installed: mend that, then run make again."; exit 1; } >&2; \
	{ echo "$(CURDIR)"; cat requirements/audit.txt; } > .audit/venv/installed.txt

# What of that runs on Node.js; `make docs` needs no more. Without npm it is left out here, and whoever needs it says so and fails.
renderers:
	@if cmp -s tools/audit/package-lock.json .audit/node_modules/installed.txt || ! command -v npm >/dev/null; then exit 0; fi; \
	echo "Installing the tools that run on Node.js into .audit (once, about half a minute) ..."; \
	mkdir -p .audit && cp tools/audit/package.json tools/audit/package-lock.json .audit/ && \
	said=$$(cd .audit && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error 2>&1) || \
		{ printf '%s\n' "$$said"; echo "They could not be installed: mend that, then run make again."; exit 1; } >&2; \
	cp tools/audit/package-lock.json .audit/node_modules/installed.txt
