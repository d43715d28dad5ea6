# llmops. Needs Python >= 3.11 with pip, and make; everything else is set up here.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup run test check format bench lock clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

setup: .venv/.ready ## Make .venv with everything the project needs

.venv/.ready: requirements.lock pyproject.toml .ci/setup
	@PYTHON="$(PYTHON)" .ci/setup
	@touch $@

run: .venv/.ready ## Start the server, ask it, show the MLflow run; ENDPOINT=name chooses the endpoint
	@$(BIN)/llmops run $(ENDPOINT)

test: .venv/.ready ## Run every test
	@$(BIN)/python -m pytest

check: .venv/.ready ## Lint, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: .venv/.ready ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: .venv/.ready ## Measure this server against the bare pass-through (4 minutes)
	@$(BIN)/python -m benchmarks.gateway
	@$(BIN)/python -m benchmarks.startup

lock: ## Resolve requirements.lock anew
	@PYTHON="$(PYTHON)" .ci/setup lock

clean: ## Remove what make made
	rm -rf .venv .uv
