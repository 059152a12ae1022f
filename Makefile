# One verb per task; `make help` lists them. Every target does its own set-up, and a second run
# costs nothing: what was done is remembered by a stamp that depends on what it was done from.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first Python of at least 3.11 on this machine; `make PYTHON=/some/python3` chooses another.
PYTHON ?= $(firstword $(foreach p,python3 python3.11 python3.12 python3.13 python3.14,\
	$(shell command -v $(p) >/dev/null && $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
VENV := .venv
BIN := $(VENV)/bin
BUILD := $(CURDIR)/build
# Most tests wait for a process or a clock: twice as many at a time as there are cores.
WORKERS ?= $(shell echo $$((2 * $$(nproc))))
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PACKAGES := core/assay_core agent/assay_agent valuer/assay_valuer audit/assay_audit
CODE := $(PACKAGES) scripts $(wildcard demo) $(wildcard bench)
PROTO := window evidence attestation enrollment
SERVICES := attestation enrollment

##@ Start here

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: $(VENV)/.run ## one valuer, simulated hosts with and without a TPM, a chain; ONCE=1 tells the story once and exits
	@$(BIN)/python scripts/tools.py swtpm
	$(BIN)/python demo/run.py $(if $(ONCE),--once)

.PHONY: test
test: setup shim tools ## every test; ARGS='-k spool' chooses among them
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

.PHONY: check
check: setup format-check lint types walls proto-check tidy audit ## format, lint, types, import walls, drift, tidiness, dependency audit
	@echo
	@echo "make check: format, lint, types, import walls, generated code and tidiness hold."
	@cat $(BUILD)/audit.txt

.PHONY: bench
bench: setup shim tools ## the budgets, each beside what bounds it; writes build/bench.json
	$(BIN)/python bench/run.py $(ARGS)

##@ Set-up

.PHONY: setup
setup: $(VENV)/.dev ## .venv with everything the tests and checks need, by hash

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Assay needs Python 3.11 or newer, with its venv module; none was found." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The demo needs neither compilers nor test tools: the product and its build backend alone.
$(VENV)/.run: requirements/run.txt pyproject.toml | $(BIN)/python
	@echo "installing what requirements/run.txt pins into $(VENV) (once, about a minute)"
	$(PIP) install --require-hashes -r requirements/run.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "installing what requirements/dev.txt pins into $(VENV) (once, about a minute)"
	$(PIP) install --require-hashes -r requirements/dev.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run

.PHONY: shim
shim: ## build/nvml_shim/libnvidia-ml.so.1, the test double of NVIDIA's library
	@$(MAKE) --no-print-directory -C tests/nvml_shim OUT=$(BUILD)/nvml_shim

.PHONY: tools
tools: | $(BIN)/python ## what tests need beyond PyPI: Prometheus, anvil, solc; names what it cannot get
	@$(BIN)/python scripts/tools.py

##@ Checks, one by one

.PHONY: format
format: setup ## rewrite the sources in the house format
	$(BIN)/ruff format .

.PHONY: format-check
format-check: setup ## fail on any file not in the house format
	$(BIN)/ruff format --check .

.PHONY: lint
lint: setup ## ruff, every rule but those pyproject.toml excuses
	$(BIN)/ruff check .

.PHONY: types
types: setup ## mypy, strict over the product; the tests' fakes by what they say
	$(BIN)/mypy $(CODE)
	$(BIN)/mypy --config-file tests/mypy.ini tests/fakes

.PHONY: walls
walls: setup ## who may import whom
	$(BIN)/lint-imports

.PHONY: tidy
tidy: setup ## house rules no linter knows
	$(BIN)/python -m pytest tests/unit/test_tidy.py

.PHONY: audit
audit: setup ## known vulnerabilities in what the lock files name
	$(BIN)/python scripts/audit.py

.PHONY: proto-check
proto-check: setup ## fail where the generated code is not what proto/ generates
	@rm -rf $(BUILD)/proto && mkdir -p $(BUILD)/proto
	@$(call generate,$(BUILD)/proto)
	@for f in $$(cd $(BUILD)/proto && find . -type f) ; do \
		diff -u proto/$$f $(BUILD)/proto/$$f || { echo "proto/$$f has drifted: run make proto" >&2; exit 1; }; done
	@for f in $$(cd proto && find . -name '*_pb2*.py*' -not -name '*.pyc') ; do \
		test -f $(BUILD)/proto/$$f || { echo "nothing generates proto/$$f" >&2; exit 1; }; done

.PHONY: test-kill
test-kill: setup shim tools ## kill -9 both sides 500 times; minutes, where make test takes 50
	ASSAY_KILLS=500 $(BIN)/python -m pytest --timeout=3600 -m kill $(ARGS)

SECONDS ?= 10
.PHONY: fuzz
fuzz: setup ## every parser of bytes from a host, led by coverage; SECONDS=10 for each
	$(BIN)/python -m tests.fuzz.fuzz all --seconds $(SECONDS)

##@ Regenerate what is checked in

define generate
PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iproto --python_out=$(1) \
	--mypy_out=quiet:$(1) $(PROTO:%=assay_proto/v1/%.proto) && \
PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iproto --grpc_python_out=$(1) \
	--mypy_grpc_out=quiet:$(1) $(SERVICES:%=assay_proto/v1/%.proto)
endef

.PHONY: proto
proto: setup ## generated code from proto/*.proto
	$(call generate,proto)

.PHONY: docs
docs: setup ## docs/privacy.md and the tables of docs/telemetry.md, from the schema and the code
	$(BIN)/python -m scripts.privacy
	$(BIN)/python -m scripts.telemetry_docs

.PHONY: contracts
contracts: tools ## ABI and bytecode of the hub, from its source
	cd contracts && node compile.mjs && node compile.mjs --fake

# UPGRADE=1 moves every pin to the newest release; without it the pins stay as they are.
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 \
	--prerelease if-necessary-or-explicit --no-emit-index-url --no-header --no-annotate $(if $(UPGRADE),--upgrade)

.PHONY: lock
lock: setup ## requirements/*.txt, every package by version and hash; UPGRADE=1 takes newer ones
	$(LOCK) --all-extras pyproject.toml requirements/dev.in -o requirements/dev.txt
	$(LOCK) --all-extras --constraint requirements/dev.txt pyproject.toml requirements/build.in -o requirements/run.txt

##@ Afterwards

.PHONY: clean
clean: ## remove what was built or installed here
	rm -rf $(VENV) $(BUILD) contracts/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
