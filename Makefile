# GNU make 3.81 (macOS) is enough. `make demo` and `make test` each work as the first command in a
# fresh clone: they create .venv and install into it.
#
# torch comes from the package index that pip is set up with; to choose another build (another
# CUDA version, CPU only), set up pip for it or install torch into .venv first (see README.md).

VENV := .venv
BIN := $(VENV)/bin
# The first of these that runs and is new enough; `make PYTHON=/path/to/python3 test` to choose.
PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3.14 python3 python,\
  $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(p))))

# Two processes of one thread each; a file stays in one process, so that its fixtures are made once.
TEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check docs bench clean

help:
	@echo "make demo       the main job on a synthetic cohort, with a report, in 2 to 3 minutes"
	@echo "make test       the tests that take seconds"
	@echo "make test-slow  the tests that take minutes"
	@echo "make check      formatting, lint, types, doctests and the fast tests"
	@echo "make docs       the documentation site in build/docs/site; DOCS=--quick runs no notebook"
	@echo "make bench      every benchmark that needs no GPU, shortened"
	@echo "make clean      remove caches and builds; runs/ and .venv stay"

demo: $(VENV)/.installed
	$(BIN)/slimp demo --out runs/demo --overwrite

# Rewriting asserts, to explain them, takes each process seconds: only what fails is run with it.
test: $(VENV)/.installed
	$(TEST) --assert=plain -m "not slow" || \
	  { test $$? -eq 1 && $(TEST) --last-failed -m "not slow"; exit 1; }

# Exit status 5 means that no test is marked slow, or that all were deselected.
test-slow: $(VENV)/.installed
	$(TEST) -m slow --session-timeout 2400 || test $$? -eq 5

check: $(VENV)/.installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m xdoctest --quiet slimp
	$(TEST) -m "not slow"

docs: $(VENV)/.docs
	$(BIN)/python docs/build_site.py $(DOCS)

bench: $(VENV)/.installed
	@set -e; for file in $$(grep -l __main__ benchmarks/*.py | grep -v /gpu.py); do \
	  echo "== $$file --quick"; $(BIN)/python "$$file" --quick; \
	done

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
	  echo "slimp needs Python 3.11 or newer and none was found." \
	    "Install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "slimp needs Python 3.11 or newer; $(PYTHON) is older or does not run." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Written last, so that an interrupted installation is taken up again.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install -e . --group dev -c constraints.txt
	@touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --group docs -c constraints.txt
	@touch $@
