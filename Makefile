# `make demo` and `make test` do everything from a bare clone; `make help` lists the rest.
#
# Variables:
#   BASE_PYTHON=python3.11   the interpreter that the environment is made with (3.11 or newer)
#   PYTHON=python            run with this interpreter as it is (conda, say) instead of making an environment
#   MSGLD_ENVS=FOLDER        keep the environment in FOLDER, shared by clones with equal lock files; .venv is a link
#   PYTEST_ARGS='-k mel'     more arguments for pytest

BASE_PYTHON ?= python3
DEMO := quickstart
PYTEST_ARGS ?=

# PYTHON counts only when given to make itself: a stray variable of the shell must not change what is tested.
ifeq ($(origin PYTHON),command line)
ENVIRONMENT := true
else
PYTHON := .venv/bin/python
ENVIRONMENT := $(BASE_PYTHON) tools/environment.py sync
endif

# How the demo's music is made, and the steps that follow it: each is config/quickstart/STEP.yaml, in this order.
DEMO_MUSIC := --tracks 6 --valid-tracks 4 --seed 1 --seconds 20 30
DEMO_STEPS := separate generate arrange finetune

.DEFAULT_GOAL := help
.PHONY: help env demo quickstart-model test lint lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' Makefile

env: ## make the virtual environment .venv with the pinned versions (5 GB, about 90 s the first time)
	@$(ENVIRONMENT)

demo: env ## compose music, separate, generate and arrange with the shipped model, train on for a minute
	$(PYTHON) -m data.synthetic --out $(DEMO)/music $(DEMO_MUSIC) --quiet
	set -e; for step in $(DEMO_STEPS); do \
	  echo "== $$step"; \
	  $(PYTHON) train_musicldm.py --config config/quickstart/$$step.yaml; \
	done
	@echo "== whole songs, as files"
	$(PYTHON) -m utilities.cli separate $$(ls -d $(DEMO)/runs/*/*_separate_*/target_*/mix | tail -1) --out $(DEMO)/stems
	@echo "== what to listen to (songs that the model was not trained on)"
	@$(PYTHON) -m utilities.report.listing $(DEMO)/runs
	@echo "hear  $(DEMO)/stems/<song>/{bass,drums,guitar,piano}.wav, which add up to the mixture"

quickstart-model: env ## make the shipped model anew (a GPU, Debian packages: see weights/quickstart/make.sh)
	PYTHON=$(PYTHON) sh weights/quickstart/make.sh

lint: env ## check the code with ruff: rules and format
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

test: lint ## run the linter and all tests
	$(PYTHON) -m pytest $(PYTEST_ARGS)

lock: ## resolve the ranges of pyproject.toml anew and write constraints.txt
	$(BASE_PYTHON) tools/environment.py lock

clean: ## remove what the other targets made: .venv, the demo's folder, caches
	rm -rf .venv .venv.lock $(DEMO) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
