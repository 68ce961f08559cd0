# From a bare Python 3.11 to 3.13 with pip to a report (make demo) and to the tests (make test). `make` alone lists the rest.

PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
# One lock serves Linux and macOS and every supported Python; it names packages and hashes, never where they came from.
LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

# Bytecode is written once, at installation: without it every Ray process would compile Ray and torch again.
export UV_COMPILE_BYTECODE := 1
unexport PYTHONDONTWRITEBYTECODE
# uv trusts what the machine trusts, as pip does. It does not read pip's settings: behind a mirror, set UV_DEFAULT_INDEX.
export UV_SYSTEM_CERTS := 1
# Nothing is reported to anybody.
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help demo test quick lint lock clean
.NOTPARALLEL:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' Makefile

demo: .venv/runtime.stamp ## audit scikit-learn's digits, from data to report
	$(BIN)/auditor run docs/examples/digits.yaml

test: .venv/dev.stamp ## all tests
	$(BIN)/pytest

quick: .venv/dev.stamp ## the tests that start no Ray cluster
	$(BIN)/pytest -m "not ray"

lint: .venv/dev.stamp ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: .venv/bootstrap.stamp ## bring requirements/ up to date with pyproject.toml; UPGRADE=1 takes the newest versions
	$(LOCK) --group bootstrap -o requirements/bootstrap.txt
	$(LOCK) pyproject.toml --group build -o requirements/runtime.txt
	$(LOCK) --group server -c requirements/runtime.txt -o requirements/server.txt
	$(LOCK) pyproject.toml --group build --group dev -c requirements/runtime.txt -o requirements/dev.txt

clean: ## remove the environment and caches; audits stay
	rm -rf .venv dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --without-pip and pip's own --python: Debian's python3 has no ensurepip until python3-venv is installed.
.venv/bootstrap.stamp: requirements/bootstrap.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || \
		{ echo 'auditor needs Python 3.11, 3.12 or 3.13, which "$(PYTHON)" is not: name one, as in make PYTHON=python3.12' >&2; exit 1; }
	$(PYTHON) -m venv --clear --without-pip .venv
	$(PYTHON) -m pip --quiet --disable-pip-version-check --python $(BIN)/python install --require-hashes -r $<
	@touch $@

# The environment is exactly the lock, so each stamp ends the other; the project itself is built with the lock's hatchling.
.venv/runtime.stamp .venv/dev.stamp: .venv/%.stamp: requirements/%.txt .venv/bootstrap.stamp pyproject.toml
	@rm -f .venv/runtime.stamp .venv/dev.stamp
	$(UV) pip sync --python $(BIN)/python --require-hashes --no-build $<
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@$(UV) pip check --quiet --python $(BIN)/python || { echo "pyproject.toml asks for more than $< holds: run make lock" >&2; exit 1; }
	@touch $@ $(if $(filter dev,$*),.venv/runtime.stamp)
