# The only door. `make help` lists what is behind it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Programs that clusters run are static; see deploy/image.
TARGET := $(shell uname -m)-unknown-linux-musl
STEP := tests/tools/step
# Tests mostly wait for a cluster; this many share it.
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

.PHONY: test
test: up ## every test: unit, snapshot, CRD rules, mocked API, real API server, end to end on the cluster
	@$(STEP) "compile the tests" cargo test --workspace --no-run --quiet
	@$(STEP) "unit, snapshot, rule and mocked-API tests" cargo test --workspace --exclude eventmesh-tests --no-fail-fast --quiet
	@$(STEP) "real API server and end-to-end tests" cargo test --package eventmesh-tests --no-fail-fast -- --test-threads $(TEST_THREADS)

.PHONY: check
check: ## format, lints, licences, generated files, scripts: what needs no cluster
	@$(STEP) "cargo fmt" cargo fmt --all --check
	@$(STEP) "shellcheck" $(MAKE) shellcheck
	@$(STEP) "clippy" cargo clippy --workspace --all-targets --quiet -- -D warnings
	@$(STEP) "generated files and dependency rule" $(MAKE) check-files
	@$(STEP) "cargo deny" tests/tools/cargo-deny

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

.PHONY: push
push: images ## push the images to IMAGE_REGISTRY, for a cluster of one's own
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

.PHONY: bench-bridge
bench-bridge: tools release ## messages a second through a bridge, beside the ceiling of this machine
	@$(STEP) "compile the benchmark" cargo build --quiet --release --package eventmesh-tests --bin bench_bridge
	@target/release/bench_bridge

.PHONY: bench-topics
bench-topics: tools-api release ## 1,000 Topics: time until ready, memory and CPU of the operator
	@$(STEP) "compile the benchmark" cargo build --quiet --package eventmesh-tests --bin bench_topics
	@target/debug/bench_topics

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
	@$(STEP) "compile operator and bridge" cargo build --release --target $(TARGET) --package eventmesh-operator --package eventmesh-bridge

.PHONY: broker
broker:
	@$(STEP) "broker image" broker-image/build

.PHONY: demo-build
demo-build:
	@$(STEP) "compile the demo" cargo build --quiet --package eventmesh-tests --bin demo
