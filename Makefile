# Everything that is done often. `make` alone lists it.

CARGO ?= cargo
# Where the tests find a Python that has the drivers they try (psycopg).
PYTHON_ENV := target/python

.DEFAULT_GOAL := help
.PHONY: help demo build test spread services check format lint unmerged deny python kafka bench beside soak chaos fuzz

help: ## Lists the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## Builds, starts everything with example events, and shows the results live
	@./target/release/headwater demo

build: toolchain ## Builds the release binary, target/release/headwater
	@$(CARGO) build --release --locked --bin headwater

test: toolchain python kafka servers ## Runs all tests, with the servers that they need
	@PATH="$(CURDIR)/$(PYTHON_ENV)/bin:$$PATH" $(CARGO) test --workspace --locked --no-fail-fast

spread: build kafka servers ## Starts the clickstream example as six processes on Kafka, with PostgreSQL and Redis
	@examples/clickstream/spread/start

services: toolchain servers kafka ## Starts Kafka, PostgreSQL and Redis as the tests do, for trials by hand
	@$(CARGO) run --locked --quiet -p headwater-test-servers

check: format lint unmerged ## Formatting and lints, warnings as errors: what CI runs before the tests

format:
	@$(CARGO) fmt --all --check

# What a merge left open.
unmerged:
	@! git grep -nE '^(<<<<<<<|>>>>>>>)( |$$)'

lint: toolchain
	@$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings

deny: ## Licences and advisories of the dependencies (needs cargo-deny)
	@$(CARGO) deny check

soak: build ## Kills and restarts the server under load for hours (SOAK_ROUNDS, default 2000)
	@HEADWATER_CRASH_ROUNDS=$${SOAK_ROUNDS:-2000} HEADWATER_CRASH_SEED=$${HEADWATER_CRASH_SEED:-$$(date +%s)} HEADWATER_BIN=$(CURDIR)/target/release/headwater \
		$(CARGO) test --locked -p headwater --test it -- --nocapture crash::

chaos: build kafka servers ## Kills, freezes and cuts off processes, brokers and the database of a cluster under load (CHAOS_SECONDS, default 600)
	@HEADWATER_CHAOS_CUTS=1 HEADWATER_CHAOS_SECONDS=$${CHAOS_SECONDS:-600} HEADWATER_CHAOS_SEED=$${HEADWATER_CHAOS_SEED:-$$(date +%s)} HEADWATER_BIN=$(CURDIR)/target/release/headwater \
		$(CARGO) test --locked --workspace --test it -- chaos:: --nocapture

beside: build kafka servers ## Measures Headwater beside Kafka Streams and Flink, on the same topics (EVENTS, default 2000000)
	@bench/beside/run

fuzz: toolchain ## Fuzzes FUZZ_TARGET (default json) for FUZZ_SECONDS (default 600); needs nightly Rust and cargo-fuzz
	@$(CARGO) +nightly fuzz run $${FUZZ_TARGET:-json} -- -max_total_time=$${FUZZ_SECONDS:-600}

# Compilers, OpenSSL's headers (for Kafka's client) and psql come from Debian; a Rust toolchain has to be there (https://rustup.rs).
.PHONY: toolchain
toolchain:
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing: install Rust, https://rustup.rs"; exit 2; }
	@command -v cc >/dev/null || { echo "a C compiler is missing: installing gcc"; ./scripts/install gcc libc6-dev; }
	@command -v c++ >/dev/null || { echo "a C++ compiler is missing: installing g++"; ./scripts/install g++; }
	@pkg-config --exists libssl 2>/dev/null || { echo "OpenSSL's headers are missing: installing them"; ./scripts/install pkg-config libssl-dev; }

python: $(PYTHON_ENV)/ready
$(PYTHON_ENV)/ready: tests/requirements.txt
	@command -v psql >/dev/null || ./scripts/install postgresql-client
	@python3 -c 'import venv, ensurepip' 2>/dev/null || ./scripts/install python3-venv
	@python3 -m venv $(PYTHON_ENV)
	@$(PYTHON_ENV)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# Where the tests find the jars of a Kafka broker.
KAFKA := target/kafka
kafka: $(KAFKA)/ready
$(KAFKA)/ready: tests/servers/kafka/pom.xml
	@command -v java >/dev/null || ./scripts/install default-jre-headless
	@command -v mvn >/dev/null || ./scripts/install maven
	@mvn --quiet --batch-mode --file $< dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/$(KAFKA)
	@touch $@

# What tests start by themselves (tests/servers).
.PHONY: servers
servers:
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || ./scripts/install postgresql
	@command -v redis-server >/dev/null || ./scripts/install redis-server
	@command -v ip >/dev/null || ls /usr/sbin/ip >/dev/null 2>&1 || ./scripts/install iproute2
