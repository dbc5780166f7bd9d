# Cobalt Relay on this machine. `make` lists what there is; GNU make 3.81 and Python 3.13 are all it needs.

# An interpreter to use instead of the python3.13 or python3 on the PATH.
PYTHON ?=
# make logs F=1 follows; make lock UPGRADE=1 takes newer versions.
F ?=
UPGRADE ?=
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
LOCAL := $(BIN)/python -m tools.local
REDRIVE = $(BIN)/python -m tools.redrive $(if $(DRY),--dry-run) $(if $(STACK),--stack '$(STACK)')
COMPILE := $(BIN)/uv pip compile --quiet --no-config --no-header --universal --python-version 3.13 --generate-hashes \
	$(if $(UPGRADE),--upgrade)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX
export SAM_CLI_TELEMETRY := 0
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help demo up down logs redrive test soak check fix lock clean environment

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s%s\n", $$1, $$2 }' Makefile

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

test: check ## The checks, then every test, with coverage
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --cov --cov-report=term

soak: environment ## 1,000 fetches while much goes wrong, compared one by one; N=300
	@$(BIN)/python -m tests.soak $(if $(N),--fetches $(N))

check: environment ## Format, lint, types, template; changes nothing
	@$(LOCAL) check

fix: environment ## Mend what the checks can mend
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

lock: environment ## Pin the packages anew; UPGRADE=1 takes newer versions
	@$(COMPILE) requirements/dev.in --output-file requirements/dev.txt
	@$(COMPILE) --constraints requirements/dev.txt layers/dependencies/requirements.in \
		--output-file layers/dependencies/requirements.txt

clean: ## Stop the stack; remove .venv, .local, .aws-sam and the caches
	@# By hand, for .venv may be gone already. A server is ours if its command line names our folder.
	@for pid in $$(find .local -name '*.pid' ! -path '*/tmp/*' -exec cat {} \; 2>/dev/null); do \
		case "$$(ps -ww -o args= -p $$pid)" in *"$(CURDIR)/.local/"*) kill $$pid; \
			for tenth in $$(seq 100); do if kill -0 $$pid 2>/dev/null; then sleep 0.1; fi; done ;; esac; done
	@rm -rf .venv .local .aws-sam .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* htmlcov
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
