# Every target makes the virtual environment it needs. `make` alone lists them.

DATA    ?= data
STORE   ?= $(or $(HEADSTART_STORE),store)
RUN     ?= runs/first
WEIGHTS ?= $(or $(HEADSTART_WEIGHTS),imagenet)
ARGS    ?=
PYTHON  ?= python3

VENV := .venv
BIN  := $(VENV)/bin
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
HEADSTART := $(BIN)/headstart
EPOCH ?= $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct))
DOWNLOAD := downloads/kagglecatsanddogs_5340.zip
DOWNLOAD_URL := https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip
FEATURE_OPTIONS = --store $(STORE) --weights $(WEIGHTS)

.DEFAULT_GOAL := help
.PHONY: help setup demo data features head finetune evaluate report serve tensorboard test test-all lint dist bench bench-scale clean

help: ## this list
	@echo "headstart: an image classifier in two phases"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "variables: DATA=$(DATA) STORE=$(STORE) RUN=$(RUN) WEIGHTS=$(WEIGHTS) ARGS=$(ARGS) (further options of the command)"

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: headstart needs Python 3.11 or later, " + sys.executable + " is " + sys.version.split()[0] + "; give another as PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable .
	@touch $@

$(READY): $(INSTALLED)
	$(BIN)/pip install --quiet --editable . --group dev
	@touch $@

setup: $(READY) ## the virtual environment with the developers' tools, in .venv

demo: $(INSTALLED) ## both phases on drawn cats and dogs, in demo/; needs no network once it is installed
	HEADSTART_WEIGHTS="$(WEIGHTS)" $(HEADSTART) demo $(ARGS)

data: $(INSTALLED) ## Microsoft's Dogs vs Cats (787 MB) into DATA
	$(BIN)/python -m headstart.pipeline.prepare.download $(DOWNLOAD_URL) $(DOWNLOAD)
	$(HEADSTART) prepare $(DOWNLOAD) $(DATA) $(ARGS)

features: $(INSTALLED) ## features of DATA into STORE
	$(HEADSTART) features $(DATA) $(FEATURE_OPTIONS) $(ARGS)

head: $(INSTALLED) ## phase 1: a head on the features, as RUN
	$(HEADSTART) head $(DATA) --run $(RUN) $(FEATURE_OPTIONS) $(ARGS)

finetune: $(INSTALLED) ## phase 2: fine-tune RUN
	$(HEADSTART) finetune $(RUN) $(ARGS)

evaluate: $(INSTALLED) ## score RUN on the test split
	$(HEADSTART) evaluate $(RUN) $(ARGS)

report: $(INSTALLED) ## one page about RUN, report.html
	$(HEADSTART) report $(RUN) $(ARGS)

serve: $(INSTALLED) ## a page and an HTTP interface for RUN, on this machine
	@$(BIN)/python -c 'import fastapi, uvicorn' 2>/dev/null || $(BIN)/pip install --quiet --editable '.[serve]'
	$(HEADSTART) serve $(RUN) $(ARGS)

tensorboard: $(INSTALLED) ## curves of all runs beside RUN
	$(BIN)/tensorboard --logdir $(dir $(RUN)) $(ARGS)

test: $(READY) ## the quick test suite
	$(BIN)/pytest --numprocesses 2 --dist loadfile --max-worker-restart 0 $(ARGS)

test-all: $(READY) ## with the slow tests, and those on real photographs where they are
	$(BIN)/pytest --numprocesses 2 --dist loadfile --max-worker-restart 0 -m 'not network' $(ARGS)

lint: $(READY) ## ruff, mypy, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p build/typing && ln -sfn ../.. build/typing/headstart
	$(BIN)/mypy
	$(BIN)/lint-imports

dist: $(READY) ## a wheel and an sdist in dist/, the same bytes from the same commit
	rm -rf dist
	SOURCE_DATE_EPOCH=$(EPOCH) $(BIN)/python -m build --outdir dist .
	@# setuptools keeps the times of files in an sdist, so it is packed again (see reproducible-builds.org, "Archives")
	cd dist && mkdir packed && tar --extract --gzip --file *.tar.gz --directory packed && cd packed && \
	  tar --create --sort=name --mtime=@$(EPOCH) --mode=u=rwX,go=rX --owner=0 --group=0 --numeric-owner --format=ustar * \
	  | gzip -9 --no-name > ../$$(basename ../*.tar.gz) && rm -r ../packed
	$(BIN)/twine check --strict dist/*

bench: $(READY) ## measure, writing benchmarks/results.json
	$(BIN)/python -m benchmarks.bench $(ARGS)

bench-scale: $(READY) ## a store and a scan of a million images, writing benchmarks/scale.json (5 GB of disk)
	$(BIN)/python benchmarks/scale.py $(ARGS)

clean: ## remove the environment, the demo and caches; never data, store or runs
	rm -rf $(VENV) demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
