# The only door. `make help` lists what is behind it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Programs that clusters run are static; see deploy/image.
TARGET := $(shell uname -m)-unknown-linux-musl
STEP := tests/tools/step
CLI_DIR ?= $(HOME)/.local/bin
# Tests mostly wait, for programs or for the cluster; this many run side by side.
UNIT_THREADS ?= 6
TEST_THREADS ?= 4

# What a child of make must not inherit from whoever calls it: a cluster of one's own is named by KUBECONFIG_UNDER_TEST.
unexport KUBECONFIG
# A failed test tells what it waited for; where in the test that was, helps nobody.
export RUST_LIB_BACKTRACE := 0

.PHONY: help
help: ## list the targets
	@sed --quiet --regexp-extended 's/^([a-z-]+):.*## (.*)$$/\1\t\2/p' Makefile | while IFS=$$'\t' read -r target text; do printf '  make %-14s %s\n' "$$target" "$$text"; done

.PHONY: demo
demo: up demo-build ## cluster up, operator installed, 40,000 events through two kills, and none lost
	@target/debug/demo

.PHONY: demo-accounts
demo-accounts: accounts demo-accounts-build ## examples/accounts: 1,000 accounts opened in three languages through sidecars, and everybody heard of each
	@target/debug/demo_accounts

.PHONY: attack
attack: up attack-build ## cluster up, operator installed, and everything that is forbidden tried as each kind of identity
	@target/debug/attack

# All steps choose the same packages: others would have other features, and everything would be compiled again.
integration = $(sort $(basename $(notdir $(wildcard $(1:%=%/tests/*.rs)) $(patsubst %/main.rs,%,$(wildcard $(1:%=%/tests/*/main.rs))))))
# Programs hold no tests of their own but these, and linking them all as tests takes minutes.
UNIT_TESTS := --lib --bin=credit-check --bin=kubectl-eventmesh $(addprefix --test=,$(call integration,$(filter-out tests target,$(patsubst %/,%,$(wildcard */)))))
CLUSTER_TESTS := $(addprefix --test=,$(call integration,tests))

.PHONY: test
test: up accounts ## every test: unit, snapshot, CRD rules, mocked API, real API server, end to end on the cluster
	@$(STEP) "compile the tests" cargo test --workspace $(UNIT_TESTS) $(CLUSTER_TESTS) --no-run --quiet
	@$(STEP) "unit, snapshot, rule and mocked-API tests" cargo test --workspace $(UNIT_TESTS) --no-fail-fast --quiet -- --test-threads $(UNIT_THREADS)
	@$(STEP) "real API server and end-to-end tests" cargo test --workspace $(CLUSTER_TESTS) --no-fail-fast -- --test-threads $(TEST_THREADS)

.PHONY: check
check: ## format, lints, licences, generated files, scripts: what needs no cluster
	@$(STEP) "cargo fmt" cargo fmt --all --check
	@$(STEP) "shellcheck" $(MAKE) shellcheck
	@$(STEP) "clippy" cargo clippy --workspace --all-targets --quiet -- -D warnings
	@$(STEP) "generated files and dependency rule" $(MAKE) check-files
	@$(STEP) "cargo deny" tests/tools/cargo-deny

.PHONY: fuzz
fuzz: toolchain ## search for inputs that break a parser, FUZZ_SECONDS (20) a target
	@$(STEP) "fuzz" tests/tools/fuzz

.PHONY: shellcheck
shellcheck:
	@grep --recursive --files-with-matches --extended-regexp --exclude-dir={.git,.build,target} '^#!/(usr/)?bin/(env )?(ba)?sh$$' . | xargs shellcheck

.PHONY: check-files
check-files:
	@cargo test --quiet --package eventmesh-crds --test generated
	@cargo test --quiet --package eventmesh-tests --test architecture

.PHONY: generate
generate: ## write crds/yaml and docs/reference/conditions.md anew from the types
	@UPDATE_GENERATED=1 cargo test --quiet --package eventmesh-crds --test generated

.PHONY: images
images: toolchain release broker ## container images into .build/images, made again only when their program changed
	@deploy/image operator
	@deploy/image bridge

.PHONY: accounts-images
accounts-images: toolchain ## images of the programs of examples/accounts, made again only when these changed
	@$(STEP) "images of examples/accounts" examples/accounts/build

.PHONY: accounts
accounts: up accounts-images ## these images on the cluster's nodes, and the example with their names in .build/accounts/deploy
	@$(STEP) "images of examples/accounts on the cluster" tests/tools/install accounts

.PHONY: cli
cli: toolchain release ## kubectl-eventmesh, used as `kubectl eventmesh`, into CLI_DIR (~/.local/bin)
	@install -D target/$(TARGET)/release/kubectl-eventmesh $(CLI_DIR)/kubectl-eventmesh
	@echo "$(CLI_DIR)/kubectl-eventmesh"

.PHONY: push
push: images accounts-images ## push the images to IMAGE_REGISTRY, for a cluster of one's own
	@deploy/image push

.PHONY: up
up: tools images ## cluster up (or KUBECONFIG_UNDER_TEST) and operator installed
	@$(STEP) "cluster up" tests/cluster/up
	@$(STEP) "operator installed" tests/tools/install

.PHONY: down
down: ## cluster down; nothing is left but .build
	@tests/cluster/down

.PHONY: uninstall
uninstall: ## take the operator and all its objects off the cluster
	@tests/tools/install uninstall

.PHONY: test-bridges
test-bridges: tools release ## every kind of endpoint, both ways, with kills, restarts and cuts; EVENTS (50000) a route, ROWS to choose
	@$(STEP) "compile the trial" cargo build --quiet --package eventmesh-tests --bin test_bridges
	@target/debug/test_bridges $(ROWS)

.PHONY: test-operations
test-operations: up broker-before operations-build ## rolls, growth, drains and losses under 2,000 events/s, and what was lost; ROWS to choose
	@target/debug/test_operations $(ROWS)

.PHONY: test-faults
test-faults: toolchain release ## brokers paused and killed, a full volume, a spoilt store, wrong clocks, and what was lost; ROWS to choose
	@$(STEP) "tools" tests/tools/build faults
	@$(STEP) "compile the trial" cargo build --quiet --package eventmesh-tests --bin test_faults
	@target/debug/test_faults $(ROWS)

.PHONY: test-links
test-links: up far ## links over two clusters: star of five sites, chain, interest, an outage; EVENTS (2000) a flow, OUTAGE (60) seconds
	@$(STEP) "compile the trial" cargo build --quiet --package eventmesh-tests --bin test_links
	@target/debug/test_links

.PHONY: test-uninstall
test-uninstall: up ## the operator and its objects taken off the cluster in each order, and what hung, was left and was lost; ROWS to choose
	@$(STEP) "compile the trial" cargo build --quiet --package eventmesh-tests --bin test_uninstall
	@target/debug/test_uninstall $(ROWS)

# The second cluster, with the operator on it.
.PHONY: far
far: tools images
	@$(STEP) "far cluster up" env CLUSTER=far tests/cluster/up
	@$(STEP) "operator installed there" env CLUSTER=far tests/tools/install

.PHONY: bench-bridge
bench-bridge: tools release ## events a second, latency and memory of each kind of bridge, beside the client libraries alone
	@$(STEP) "compile the benchmark" cargo build --quiet --release --package eventmesh-tests --bin bench_bridge
	@target/release/bench_bridge

.PHONY: bench-sidecar
bench-sidecar: tools-api release ## what a sidecar costs: latency, throughput and memory, beside the same client without it
	@$(STEP) "compile the benchmark" cargo build --quiet --release --package eventmesh-tests --bin bench_sidecar
	@target/release/bench_sidecar

.PHONY: bench-push
bench-push: tools release ## events a second that a sidecar pushes to an application, beside pulls and posts alone
	@$(STEP) "compile the benchmark" cargo build --quiet --release --package eventmesh-tests --bin bench_push
	@target/release/bench_push

.PHONY: bench-topics
bench-topics: tools-api release ## 1,000 Topics: time until ready, memory and CPU of the operator
	@$(STEP) "compile the benchmark" cargo build --quiet --package eventmesh-tests --bin bench_topics
	@target/debug/bench_topics

.PHONY: bench-identities
bench-identities: tools-api release ## 1,000 identities of one mesh: time until all can connect, and until a changed grant holds
	@$(STEP) "compile the benchmark" cargo build --quiet --package eventmesh-tests --bin bench_identities
	@target/debug/bench_identities

.PHONY: bench-injection
bench-injection: tools-api release ## 200 pods a second against the webhook alone: time for an answer
	@$(STEP) "compile the benchmark" cargo build --quiet --release --package eventmesh-tests --bin bench_injection
	@target/release/bench_injection

.PHONY: tools
tools: toolchain ## Debian packages and the programs that tests run, built once into .build/bin
	@$(STEP) "tools" tests/tools/build cluster

.PHONY: tools-api
tools-api: toolchain
	@$(STEP) "tools" tests/tools/build api

.PHONY: toolchain
toolchain:
	@tests/tools/toolchain

.PHONY: release
release:
	@$(STEP) "compile operator, bridge and kubectl-eventmesh" cargo build --release --target $(TARGET) --package eventmesh-operator --package eventmesh-bridge --package eventmesh-cli

.PHONY: broker
broker:
	@$(STEP) "broker image" broker-image/build

# The version that brokers come from and go back to.
.PHONY: broker-before
broker-before: up
	@$(STEP) "broker image of the version before" tests/tools/install broker-before

.PHONY: operations-build
operations-build:
	@$(STEP) "compile the trial of operations" cargo build --quiet --package eventmesh-tests --bin test_operations

.PHONY: demo-build
demo-build:
	@$(STEP) "compile the demo" cargo build --quiet --package eventmesh-tests --bin demo

.PHONY: demo-accounts-build
demo-accounts-build:
	@$(STEP) "compile the demo" cargo build --quiet --package eventmesh-tests --bin demo_accounts

.PHONY: attack-build
attack-build:
	@$(STEP) "compile the attack" cargo build --quiet --package eventmesh-tests --bin attack
