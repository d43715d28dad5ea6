# llmops. Needs Python >= 3.11 with pip, and make; everything else is set up here.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup run test check format bench bench-log soak fuzz lock clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

setup: .venv/.ready .venv-clients/.ready ## Make .venv with everything the project needs, and .venv-clients

.venv/.ready: requirements.lock pyproject.toml .ci/setup
	@PYTHON="$(PYTHON)" .ci/setup
	@touch $@

# Stock clients at their newest, which cannot be installed beside litellm. One after the other: both fetch uv.
.venv-clients/.ready: requirements-clients.lock pyproject.toml .ci/setup | .venv/.ready
	@PYTHON="$(PYTHON)" .ci/setup clients
	@touch $@

run: .venv/.ready ## Start the server, ask it, show the MLflow run; ENDPOINT=name chooses the endpoint
	@$(BIN)/llmops run $(ENDPOINT)

test: .venv/.ready .venv-clients/.ready ## Run every test, file by file in 2 processes
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/.ready ## Lint, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: .venv/.ready ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: .venv/.ready ## Measure this server against the bare pass-through, and its control plane (5 minutes)
	@missed=0; for each in gateway startup control; do $(BIN)/python -m benchmarks.$$each || missed=1; done; exit $$missed

bench-log: .venv/.ready ## Measure the interaction log: MLflow writers, inference tables, a million waiting (12 minutes)
	@missed=0; for each in log log_cost tables backlog; do $(BIN)/python -m benchmarks.$$each || missed=1; done; exit $$missed

soak: .venv/.ready ## 10,000 requests while processes are killed and MLflow is away, on each store (15 minutes)
	@LLMOPS_SOAK_REQUESTS=10000 LLMOPS_SOAK_AWAY_S=60 $(BIN)/python -m pytest tests/test_interaction_log.py

fuzz: .venv/.ready ## Ask every management route what nobody would, for 20 minutes; SECONDS=3600 makes it two hours
	@LLMOPS_FUZZ_SECONDS=$(or $(SECONDS),600) $(BIN)/python -m pytest tests/routes/test_fuzz.py

lock: ## Resolve requirements.lock and requirements-clients.lock anew
	@PYTHON="$(PYTHON)" .ci/setup lock

clean: ## Remove what make made
	rm -rf .venv .venv-clients .uv
