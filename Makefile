# Everything is done in .venv, which `make demo` and `make test` build by themselves.

VENV   := .venv
PEERS  := .venv-peers
BIN    := $(VENV)/bin
PIP     = $(BIN)/python -m pip --disable-pip-version-check
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
METADATA := pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench peers wheels clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.ready ## an agent that streams an answer and calls a tool: offline, no key
	$(BIN)/tinyagent run -m demo -t calc "What is 6 * 7?"

test: $(VENV)/.ready-dev $(PEERS)/.ready ## all tests; PYTEST_ARGS="-k jsonl" for some
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.ready-dev ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready-dev ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.ready-dev ## the benchmarks, beside the clients that are installed
	$(BIN)/python -m bench

peers: $(PEERS)/.ready ## the servers of other projects that tests/peers talks to

wheels: $(VENV)/.ready-dev ## wheels of tinyagent and its plugins in dist/
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . $(addprefix ./,$(PLUGINS))
	@ls dist/*.whl

clean: ## remove everything that make made
	rm -rf $(VENV) $(PEERS) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# tinyagent first and from here, plugins without resolving: on the public index the name `tinyagent`
# is somebody else's, and pip must never have a reason to look there.
$(VENV)/.ready: $(METADATA)
	@test -x $(BIN)/python || { python=$$(scripts/find-python) && "$$python" -m venv $(VENV); }
	$(PIP) install --quiet --constraint constraints.txt hatchling editables
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable .
	$(PIP) install --quiet --no-deps --no-build-isolation $(addprefix --editable ./,$(PLUGINS))
	$(BIN)/python -P scripts/check_install.py
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	$(BIN)/python -P scripts/check_install.py
	@touch $@

# First the pins as they stand, since resolving them takes longer than all the rest; then whatever this
# Python needs beyond them.
$(PEERS)/.ready: tests/peers/constraints.txt
	@test -x $(PEERS)/bin/python || { python=$$(scripts/find-python) && "$$python" -m venv $(PEERS); }
	$(PEERS)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile \
		--no-deps --requirement tests/peers/constraints.txt
	$(PEERS)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile \
		--constraint tests/peers/constraints.txt 'litellm[proxy]'
	@touch $@
