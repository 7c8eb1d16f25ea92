# `make help` lists the targets. Everything runs in .venv.
python := .venv/bin/python
bin := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup test test-all check docs bench

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

setup: ## make .venv and install i2ii in it, with the tools of the tests
	python3 -m venv .venv
	$(bin)/pip install -q -e '.[test]'

test: ## run the unit tests (at most 10 s)
	$(bin)/pytest -q -n 2 tests/unit

test-all: ## run every test that this machine can run (minutes)
	$(bin)/pytest -n 2

check: ## ruff, mypy, the import rule, and whether the generated docs are up to date
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/lint-imports
	$(python) docs/generate.py --check

docs: ## generate docs/settings.md, docs/cli.md and docs/errors.md
	$(python) docs/generate.py

bench: ## measure the service itself (docs/performance.md)
	$(python) -m benchmarks.spool
	$(python) -m benchmarks.http
