# make demo: a real model to a registry and back; make test: every test; make help: the rest.
VENV := .venv
PY := $(VENV)/bin/python
BIN := $(VENV)/bin

# The first Python of 3.11 or newer; `make PYTHON=/path/to/python3 …` chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

.PHONY: help venv demo tools lint test check bench fuzz docs format clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo    pack, push and pull a real model (runtime dependencies only)'
	@echo 'make test    all tests, with real registries and other tools where they are'
	@echo 'make check   lint, types, import rules, docs, then the tests'
	@echo 'make bench | fuzz | docs | format | venv | clean'

venv: $(VENV)/.dev

demo: $(VENV)/.run
	$(PY) -m deploy.demo

tools: $(VENV)/.dev
	$(PY) -m tests.servers.fetch_tools

test: tools
	$(PY) -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PY) -m ocimodel.cli.docs --check docs/cli.md

# One after the other under -j too, the tests last: theirs is the closing line.
check: lint
	@$(MAKE) --no-print-directory test

bench: tools
	PATH="$(CURDIR)/.cache/tools/bin:$$PATH" $(PY) -m bench.run

fuzz: $(VENV)/.dev
	$(PY) -m pip install --quiet atheris
	set -e; for parser in safetensors gguf onnx torch index bundle payload jws keyfile policy oms; do \
		$(PY) tests/fuzz/fuzz_parsers.py $$parser -max_total_time=60; done

docs: $(VENV)/.dev
	$(PY) -m ocimodel.cli.docs docs/cli.md

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis \
		build dist demo-out *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.dev: pyproject.toml $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(VENV)/.run $@

$(VENV)/.run: pyproject.toml $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

# The order-only `|`: an interpreter that exists is never made again.
$(PY): |
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed: apt-get install python3' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get -q update && apt-get -q install -y python3-venv; \
		else \
			echo 'Python lacks venv: run apt-get install python3-venv as root, then make again' >&2; exit 1; \
		fi; }
	$(PYTHON) -m venv $(VENV)
