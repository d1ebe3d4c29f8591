# The one command surface. `make help` lists the targets.

SHELL := /bin/sh
TOOLS := $(CURDIR)/.tools
VENV := $(TOOLS)/venv
CLIENTS := $(TOOLS)/clients
PEERS := $(TOOLS)/peers
TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
FOR ?= 20s
# Packages without I/O: their tests are the inner loop.
PURE := -p penstock-model -p penstock-delivery -p penstock-dialect -p penstock-policy

# pingora builds zlib-ng with CMake; where there is none it comes from a Python wheel.
export PATH := $(VENV)/bin:$(PATH)
export CARGO_TARGET_DIR := $(TARGET_DIR)

.PHONY: help demo build test pure lint deny bench-peers bench-live bench-idle bench-decision routers load soak simulate simulate-matrix release tools clients peers clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: build ## see requests cross the mesh: make demo [FOR=20s] [JSON=FILE]
	@$(TARGET_DIR)/debug/penstock demo --for $(FOR) $(if $(JSON),--json-file "$(JSON)")

build: tools ## build every program
	@cargo build --workspace --bins

test: build clients peers ## all tests; a missing tool is a skip that is counted, and an error with CI=true
	@: > $(TARGET_DIR)/skipped.txt
	@PENSTOCK_SKIPPED=$(TARGET_DIR)/skipped.txt PENSTOCK_PYTHON=$(CLIENTS)/bin/python PENSTOCK_PEERS=$(PEERS)/bin cargo test --workspace
	@sort -u $(TARGET_DIR)/skipped.txt; echo "$$(sort -u $(TARGET_DIR)/skipped.txt | wc -l) skipped"

pure: tools ## tests of the packages without I/O: the inner loop
	@cargo test $(PURE)

lint: build ## formatting, clippy, dependencies
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets -- -D warnings
	@$(MAKE) --no-print-directory deny

deny: ## licences, bans and sources of dependencies, and advisories where their database can be reached
	@if cargo deny --version >/dev/null 2>&1; then \
	cargo deny --all-features check --hide-inclusion-graph bans licenses sources && \
	if cargo deny fetch >/dev/null 2>&1; then cargo deny --all-features check --hide-inclusion-graph advisories; \
	else echo "advisories not checked: their database cannot be reached from here"; fi; \
	elif [ "$$CI" = true ]; then echo "cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 1; \
	else echo "skipped: needs cargo-deny (cargo install --locked cargo-deny)"; fi

bench-peers: release peers ## what ours cost beside Envoy, HAProxy and nginx: make bench-peers [JSON=FILE] [ARGS='--scenario h1-sat']
	@$(TARGET_DIR)/release/penstock-bench-peers --peers-dir $(PEERS)/bin $(if $(JSON),--json "$(JSON)") $(ARGS)

bench-live: release routers ## real sidecars beside the simulator and another router: make bench-live ARGS='--trace FILE --load 0.85 --rival sglang-router'
	@cargo build --quiet --release -p penstock-engine >&2
	@$(TARGET_DIR)/release/penstock-bench-live --peers-dir $(PEERS)/bin $(ARGS)

bench-idle: release ## what sidecars cost that only know of each other: make bench-idle [JSON=FILE] [ARGS='--only server']
	@cargo build --quiet --release -p penstock-engine >&2
	@$(TARGET_DIR)/release/penstock-bench-idle $(if $(JSON),--json "$(JSON)") $(ARGS)

bench-decision: ## how long one decision takes, and how many instructions (needs valgrind): make bench-decision
	@cargo build --quiet --release -p penstock-simulate >&2
	@$(TARGET_DIR)/release/simulate --decision
	@$(TARGET_DIR)/release/simulate --decision --instructions

load: release ## a quick look at what ours cost, beside no proxy: make load [ARGS='--scenario sse-paced']
	@$(TARGET_DIR)/release/penstock-bench-peers --peers ours --rounds 1 $(or $(ARGS),--scenario h1-sat)

soak: release ## a million requests, 100,000 cancels and 1 GiB bodies; is everything back after? make soak [JSON=FILE] [ARGS='--scale 0.01']
	@$(TARGET_DIR)/release/penstock-soak $(if $(JSON),--json "$(JSON)") $(ARGS)

simulate-matrix: ## every policy, age and number of sidecars: make simulate-matrix TRACES='FILE...' JSON=matrix.jsonl
	@cargo build --quiet --release -p penstock-simulate >&2
	@$(TARGET_DIR)/release/simulate --trace $(TRACES) --matrix $(JSON)

simulate: ## routing policies by events: make simulate ARGS='--trace FILE --policy p2c,oracle --load 0.85'
	@cargo build --quiet --release -p penstock-simulate >&2
	@$(TARGET_DIR)/release/simulate $(ARGS)

release: tools
	@cargo build --release -p penstock-benches -p penstock-proxy -p penstock-control-plane

tools:
	@missing=; \
	command -v cargo >/dev/null || missing="$$missing\n  cargo: install Rust with rustup (https://rustup.rs)"; \
	command -v cc >/dev/null || missing="$$missing\n  cc: install a C compiler (Debian: apt-get install gcc)"; \
	command -v python3 >/dev/null || missing="$$missing\n  python3: (Debian: apt-get install python3 python3-venv)"; \
	if [ -n "$$missing" ]; then printf "missing:$$missing\n" >&2; exit 1; fi
	@command -v cmake >/dev/null || { \
	echo "CMake is missing: taking it from its Python wheel, into $(VENV)"; \
	python3 -m venv $(VENV) && $(VENV)/bin/pip install --quiet cmake==4.* || { \
	echo "no CMake: install it (Debian: apt-get install cmake) or make Python wheels reachable" >&2; exit 1; }; }

# Official clients that the tests drive. Without a network the tests that need them say so.
clients: $(CLIENTS)/.made
$(CLIENTS)/.made: tests/clients/requirements.txt
	@python3 -m venv $(CLIENTS) && $(CLIENTS)/bin/pip install --quiet -r tests/clients/requirements.txt && touch $@ \
	|| echo "the Python clients cannot be installed; tests that need them will be skipped"

# Other proxies, for the tests and benches that compare. Those that cannot be had are named, and tests that need them say so.
peers: $(PEERS)/.made
$(PEERS)/.made: tests/peers/install tests/peers/requirements.txt
	@tests/peers/install $(PEERS) && touch $@ || echo "not every peer can be installed; tests that need one will be skipped"

# Other routers for AI traffic, for bench-live alone.
routers: $(PEERS)/.routers
$(PEERS)/.routers: benches/live/requirements.txt
	@mkdir -p $(PEERS)/bin && python3 -m venv $(PEERS)/venv && $(PEERS)/venv/bin/pip install --quiet -r $< && \
	ln -sf $(PEERS)/venv/bin/sglang-router $(PEERS)/venv/bin/vllm-router $(PEERS)/bin/ && touch $@ \
	|| echo "the other routers cannot be installed; --rival needs them" >&2

clean: ## remove everything that was built or fetched
	@cargo clean; rm -rf $(TOOLS)
