# make help lists the targets. Variables: PYTHON, the interpreter to start from; VENV, the virtual
# environment that everything runs in.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two pips in one virtual environment break it, and the tests fill all cores on their own.
.NOTPARALLEL:
.PHONY: help demo test test-compiled test-uncompiled test-boundscheck test-cuda coverage lint clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed-bench ## compress a real model of 135M parameters, check it, restore it
	$(BIN)/python bench/fetch_smollm2.py demo/model
	$(call unless-there,demo/compressed,$(BIN)/pvq-ref compress demo/model demo/compressed --bits 3.25)
	$(BIN)/pvq-ref verify demo/compressed --against demo/model
	$(call unless-there,demo/restored,$(BIN)/pvq-ref decompress demo/compressed demo/restored)
	$(BIN)/python bench/demo_report.py demo

# The compiled tests take longer than all others together, which run beside them.
test: $(VENV)/.installed-test ## run all tests, in four ways
	@log=$$(mktemp); $(MAKE) --no-print-directory test-compiled & compiled=$$!; \
	$(MAKE) --no-print-directory test-uncompiled test-boundscheck test-cuda >$$log 2>&1; others=$$?; \
	wait $$compiled; compiled=$$?; cat $$log; rm -f $$log; exit $$((compiled || others))

test-compiled: $(VENV)/.installed-test ## run the tests and the examples in docstrings
	$(BIN)/python -m pytest

test-uncompiled: $(VENV)/.installed-test ## run the marked tests as plain Python: overflow is an error
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -m uncompiled

test-boundscheck: $(VENV)/.installed-test ## run the marked tests with checks of every array index
	NUMBA_BOUNDSCHECK=1 $(BIN)/python -m pytest -m uncompiled

test-cuda: $(VENV)/.installed-test ## run the tests of pvq_ref.cuda in Numba's simulator, without a device
	NUMBA_ENABLE_CUDASIM=1 $(BIN)/python -m pytest tests/test_cuda.py tests/test_cuda_tree.py tests/test_cuda_fixed.py tests/test_gpu_bench.py
	NUMBA_ENABLE_CUDASIM=1 NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -m uncompiled tests/test_cuda_tree.py
	NUMBA_ENABLE_CUDASIM=1 NUMBA_BOUNDSCHECK=1 $(BIN)/python -m pytest -m uncompiled tests/test_cuda_tree.py

coverage: $(VENV)/.installed-test ## lines run by vectors and property tests, uncompiled: 95 % or fail
	$(BIN)/python bench/line_coverage.py

lint: $(VENV)/.installed-dev ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove all that these targets made, the demo and .venv too
	rm -rf .venv demo build dist .coverage htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find pvq_ref tests bench -name __pycache__ -prune -exec rm -rf {} +

# Both outputs appear under their names only when they are complete.
define unless-there
@if [ -e $(1) ]; then echo "$(1): already there, used as it is (remove it to make it again)"; \
	else echo "$(2)"; $(2); fi
endef

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pvq_ref needs Python 3.11 \
	or later, and $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed-%: pyproject.toml $(VENV)/.created
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@
