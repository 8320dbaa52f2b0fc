# One task a target: `make up` runs the platform, `make test` passes the tests; both set up what they need.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
UV := .venv-setup/bin/uv
BIN := .venv/bin
SYNC := $(UV) pip sync --quiet --require-hashes --compile-bytecode
INSTALL := $(UV) pip install --quiet --no-deps --no-build-isolation --compile-bytecode --editable .
# Root, or whoever may become root without a password; only missing packages are installed.
APT := $$([ "$$(id -u)" = 0 ] || echo "sudo -n") apt-get
export UV_PYTHON_DOWNLOADS := never
export UV_SYSTEM_CERTS := true
export UV_NO_PROGRESS := 1

.PHONY: help up setup check test unit matrix e2e bench docs lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: setup ## run the platform (options in ARGS, for example ARGS="--port 8080")
	@$(BIN)/habari up $(ARGS)

setup: .venv/.platform .venv-notebook/.ready ## install what the platform needs

check: .venv/.dev ## lint, types, import contracts, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell src docs tools images changelog.d README.md Makefile

test: unit matrix e2e ## every test

unit: .venv/.dev .venv-notebook/.ready ## all tests but the browser's
	$(BIN)/coverage run -m pytest -m "not e2e"
	$(BIN)/coverage report --include='src/habari/core/*,src/habari/storage/*' --fail-under=100

matrix: .venv/.dev .venv-notebook/.ready ## the hub's tests on the oldest and the newest JupyterHub
	tools/matrix

e2e: .venv/.dev .venv-notebook/.ready ## the story in Chromium; its screenshots are in test-results/
	@command -v chromium >/dev/null || { echo "Installing Chromium."; $(APT) update -q && $(APT) install -qy chromium fonts-noto-color-emoji; }
	$(BIN)/pytest -m e2e

bench: .venv/.dev .venv-notebook/.ready ## measure, and write docs/benchmarks.md
	$(BIN)/python tests/bench.py

docs: .venv/.dev .venv-notebook/.ready ## make docs/habari-yaml.md from the schema
	$(BIN)/python tools/document-config > docs/habari-yaml.md
	$(BIN)/python tools/document-licences > docs/licences.md

lock: .venv-setup/.ready ## compile requirements/*.lock anew
	tools/lock

clean: ## remove what the other targets made
	rm -rf .venv .venv-* dist

.venv-setup/.ready: requirements/setup.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Habari needs Python 3.11 or newer; name one with PYTHON=")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Installing python3-venv."; $(APT) update -q && $(APT) install -qy python3-venv; }
	@$(PYTHON) -m venv --clear .venv-setup
	@.venv-setup/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/setup.lock
	@touch $@

.venv/.platform: requirements/platform.lock requirements/dev.lock pyproject.toml .venv-setup/.ready
	@echo "Installing the platform (about 400 MB)."
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	@$(SYNC) --python .venv $(if $(wildcard .venv/.dev),requirements/dev.lock,$<)
	@$(INSTALL) --python .venv
	@touch $@

.venv/.dev: requirements/dev.lock pyproject.toml .venv-setup/.ready
	@echo "Installing the platform and what its tests need (about 500 MB)."
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	@$(SYNC) --python .venv $<
	@$(INSTALL) --python .venv
	@touch $@ .venv/.platform

.venv-notebook/.ready: requirements/notebook.lock pyproject.toml .venv-setup/.ready $(shell find images/minimal-notebook/prefix -type f)
	@echo "Installing the notebook environment (about 800 MB)."
	@$(UV) venv --quiet --allow-existing --system-site-packages --python $(PYTHON) .venv-notebook
	@$(SYNC) --python .venv-notebook $<
	@$(INSTALL) --python .venv-notebook
	@cp -r images/minimal-notebook/prefix/. .venv-notebook/
	@touch $@
