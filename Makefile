# One word, one verb. `make` lists them. Their Debian packages are in .ci/packages, which installs them.

VENV   ?= .venv
# Which Python makes the environment; else the newest that is found (.ci/packages).
PYTHON ?=
export PYTHON
# Each test process may start a gateway of its own, and waits for it: three keep two cores busy.
WORKERS ?= 3
CROSS   ?= aarch64-linux-gnu-gcc
SECONDS ?= 60

BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CORE := pyproject.toml setup.py fastjmix/_core.pyx $(wildcard fastjmix/_core/*.pxi)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv build demo test test-nightly faults soak fuzz bench bench-full profiles price pictures counts lint format test-pythons \
	dist changelog clean cross needs-test needs-browser needs-peers needs-fuzz
MAKEFLAGS += --no-print-directory
# Whatever the environment says: tests start hundreds of gateways, which would compile all of it anew.
unexport PYTHONDONTWRITEBYTECODE

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

venv: $(BIN)/.created  ## a virtual environment in .venv

build: $(BIN)/.installed  ## install fastjmix there, editable, with its compiled core

demo: $(BIN)/.installed  ## real DICOM files through a running gateway into an embedded JMIX store
	$(BIN)/fastjmix demo

test: needs-test needs-browser $(BIN)/.tools  ## the whole test suite
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-nightly: needs-test needs-browser $(BIN)/.tools  ## the suite with its long forms: hours, not minutes
	FASTJMIX_NIGHTLY=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --timeout 7200 $(ARGS)

fuzz: needs-fuzz $(BIN)/.tools  ## each fuzz target under sanitizers for SECONDS; findings go to tests/fuzz/corpus
	$(BIN)/python -m tests.fuzz.run all --seconds $(SECONDS)

soak: needs-peers $(BIN)/.tools  ## kills, outages and bad peers under load for SECONDS=60; then the ledger
	$(BIN)/python -m tests.soak --seconds $(SECONDS) $(ARGS)

faults: needs-test $(BIN)/.tools  ## the tests of every row of docs/faults.md, and a line of results a row
	$(BIN)/python -m pytest -m fault --fault-rows -n $(WORKERS) --dist worksteal \
		$(if $(filter 1,$(FASTJMIX_NIGHTLY)),--timeout 7200) $(ARGS)

bench: needs-peers $(BIN)/.tools  ## measure in under five minutes, into bench/short
	$(PIP) --group bench
	$(BIN)/python -m bench.run --out bench/short $(ARGS)

bench-full: needs-peers $(BIN)/.tools  ## measure everything: bench/RESULTS.md, results.json, results.svg
	$(PIP) --group bench
	$(BIN)/python -m bench.run --full $(ARGS)

profiles: needs-peers $(BIN)/.tools  ## where the time of each goal goes: build/PROFILES.md (perf and strace, if they are there)
	$(PIP) --group bench
	$(BIN)/python -m bench.profiles $(ARGS)

price: needs-peers $(BIN)/.tools  ## fastjmix beside itself as it was at another commit: build/PRICE.md (ARGS='--since COMMIT')
	$(PIP) --group bench
	$(BIN)/python -m bench.price $(ARGS)

pictures: $(BIN)/.tools  ## pictures of the page for README and docs, from a running gateway with made-up data
	@.ci/packages browser peers
	$(BIN)/python -m tests.pictures docs/images

counts: $(BIN)/.tools  ## signs that the package grows crooked, now and at ARGS=COMMIT
	$(BIN)/python tests/counts.py $(ARGS)

lint: $(BIN)/.tools  ## rules, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(BIN)/.tools  ## put the sources into their one format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

test-pythons:  ## the suite on CPython 3.11, 3.12 and 3.13, those which are here
	@ran=; failed=; for v in 3.11 3.12 3.13; do \
		p=; for c in python$$v "$$HOME"/.pyenv/versions/$$v.*/bin/python$$v; do \
			if "$$c" -c 'import venv, ensurepip' 2>/dev/null; then p=$$c; break; fi; \
		done; \
		if [ -z "$$p" ]; then echo "== Python $$v: not found, not tested"; continue; fi; \
		echo "== Python $$v: $$p"; ran="$$ran $$v"; \
		$(MAKE) test VENV=.venv-$$v PYTHON="$$p" || failed="$$failed $$v"; \
	done; echo "== tested on:$${ran:- none}; failed on:$${failed:- none}"; [ -n "$$ran" ] && [ -z "$$failed" ]

dist: $(BIN)/.tools  ## sdist and wheel, the wheel made from the sdist and run in a clean environment
	rm -rf dist build/clean
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m venv build/clean
	build/clean/bin/pip install --quiet --disable-pip-version-check dist/*.whl
	cd / && "$(CURDIR)/build/clean/bin/fastjmix" --version
	cd / && "$(CURDIR)/build/clean/bin/python" -c 'import fastjmix._core'
	rm -rf build/clean

changelog: $(BIN)/.tools  ## docs/changes into CHANGELOG.md, as release VERSION
	$(BIN)/towncrier build --yes --version $(VERSION)

cross: $(BIN)/.tools  ## compile the core for aarch64 (it is not run)
	@command -v $(CROSS) >/dev/null || .ci/packages cross
	@mkdir -p build
	$(BIN)/cython -3 fastjmix/_core.pyx -o build/_core.c
	$(CROSS) -std=c11 -Wall -Wextra -Wno-unused-parameter -Wno-unused-function -O3 -fPIC -c \
		-I"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_paths()["include"])')" \
		build/_core.c -o build/_core.aarch64.o

clean:  ## remove what was built, and the environments
	rm -rf .venv .venv-3.* build dist demo *.egg-info fastjmix/_core.c fastjmix/_core*.so
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find fastjmix tests bench -name __pycache__ -prune -exec rm -rf {} +

# --- how they get there ---

# Each group of .ci/packages, before what takes long.
needs-test needs-peers needs-fuzz: needs-%:
	@.ci/packages $*

# Its tests are skipped without one: a distribution may have no Chromium that works without snap.
needs-browser:
	@.ci/packages browser || echo "make: the tests of the page are skipped: they need Chromium" >&2

$(BIN)/.created:
	@.ci/packages build
	@[ -x $(BIN)/python ] || "$$(.ci/packages --python)" -m venv $(VENV)
	$(PIP) --upgrade 'pip>=25.1'
	@touch $@

# Again whenever the compiled core or the requirements have changed.
$(BIN)/.installed: $(CORE) | $(BIN)/.created
	PYTHONWARNINGS=ignore $(PIP) --editable .
	@touch $@

$(BIN)/.tools: pyproject.toml | $(BIN)/.installed
	$(PIP) --group test --group lint --group dist --group fuzz
	@touch $@
