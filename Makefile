# make demo   sets up .venv and runs the quick recipe to a drawn cell and its test perplexity
# make test   sets up .venv and runs ruff, mypy and pytest
# make test-all  also runs what computes without compiled kernels, and as on a processor without AVX-512
# make test-gpu  tries a GPU in under 8 minutes, and leaves gpu-record.json to send; says so in one line where there is none
# make lint   only ruff and mypy
# make docs   builds the documentation as a site, in site/
# make clean  removes .venv and what building and testing left behind; runs/ stays
#
# Needs make and Python 3.11 or newer, nothing else. Another Python than the first one found: make demo PYTHON=python3.12

PYTHON = python3.11 python3 python
VENV = .venv
BIN = $(VENV)/bin
PYTEST = $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal
PIP = $(BIN)/python -m pip --disable-pip-version-check

demo: $(VENV)/.installed
	$(BIN)/enas run recurrent-quick

test: lint
	$(PYTEST) --durations=20

test-all: test
	ENAS_KERNELS=off $(PYTEST) -m "not slow" $(COMPUTES)
	$(BIN)/python tests/avx2_only.py $(PYTEST) -m "not slow" $(COMPUTES)

# What runs a second time without kernels, and a third time as on a processor without AVX-512.
COMPUTES = $(addprefix tests/test_, $(addsuffix .py, operations blocks macro_net micro_net nasbench201 recurrent_net language_model \
	plain_modules golden_child image_training language_training image_search search usable resume))

test-gpu: $(VENV)/.installed-dev
	@$(BIN)/python benchmarks/gpu.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# One installation serves both: the package itself is editable, so only these two files make it out of date.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(MAKE_VENV)
	$(PIP) install -c constraints.txt -e '.[cpu]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	@$(MAKE_VENV)
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

# The virtual environment, unless a working one is there.
MAKE_VENV = \
	if $(PIP) --version >/dev/null 2>&1; then exit 0; fi; \
	for python in $(PYTHON); do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Creating $(VENV) with $$python"; \
			exec $$python -m venv --clear $(VENV); \
		fi; \
	done; \
	echo "Python 3.11 or newer is needed; tried: $(PYTHON). Name yours with: make PYTHON=/path/to/python3" >&2; \
	exit 1

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: demo test test-all test-gpu lint docs clean
