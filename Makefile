# SPDX-License-Identifier: Apache-2.0
# `make help` lists what is here. Everything is safe to run again.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test unit kernel netns rust test-kernels lint fmt bench soak fuzz sanitize wheel lock proto cleanup clean

PY := .venv/bin/python
CARGO := cargo
MANIFEST := --manifest-path hbone/Cargo.toml
# `su` without a dash leaves root with a user's PATH.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

define need_root
@[ "$$(id -u)" = 0 ] || { echo "make $@: root is needed, to make network namespaces and load kernel programs: sudo make $@" >&2; exit 1; }
endef
define need_environment
@[ -x $(PY) ] || { echo "make $@: nothing is set up here: run make setup first" >&2; exit 1; }
endef

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

setup: ## Install packages, headers, the Python environment; build the Rust core
	@scripts/setup run

demo: ## Two nodes, real pods, real traffic; KEEP=1 leaves it running
	$(need_root)
	@scripts/setup run
	@$(PY) -m cli.main demo $(if $(KEEP),--keep)

test: ## Everything CI runs
	$(need_root)
	@scripts/setup vm
	@scripts/test

unit: ## Pure tests: no root needed
	@scripts/setup test
	@$(PY) -m pytest tests/unit tests/contract

kernel: ## Load and drive the kernel programs (root)
	$(need_root)
	@scripts/setup test
	@$(PY) -m pytest tests/kernel

netns: ## Real agents, real pods in network namespaces (root)
	$(need_root)
	@scripts/setup test
	@$(PY) -m pytest tests/netns

rust: ## Tests of the Rust core
	@scripts/setup test
	@$(CARGO) test $(MANIFEST) --locked --workspace --exclude hbone-python

fuzz: ## Run the fuzz targets (SECONDS=180 each; QUICK=1 for CI; TARGET=frames for one)
	@scripts/setup run
	@SECONDS_EACH=$(or $(SECONDS),180) QUICK=$(QUICK) SANITIZE=$(SANITIZE) REPLAY=$(REPLAY) scripts/fuzz $(TARGET)

sanitize: ## Memory checkers over hbone-sys and the core (QUICK=1 for CI)
	@scripts/setup test
	@QUICK=$(QUICK) ONLY=$(ONLY) scripts/sanitize

test-kernels: ## The kernel tests under Linux 6.1 and 6.12 (qemu)
	$(need_root)
	@scripts/setup vm
	@tests/vm/run 6.1 6.12

lint: ## ruff, mypy, import-linter, clippy, rustfmt, clang-format, struct layouts
	@scripts/setup test
	@scripts/lint

fmt: ## Format everything
	@scripts/setup test
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix --select I . || true
	@$(CARGO) fmt $(MANIFEST)
	@clang-format -i bpf/*.c bpf/include/*.h

bench: ## No mesh, Envoy and nodemesh side by side, and what policies cost; QUICK=1 takes 4 minutes
	$(need_root)
	@scripts/setup bench
	@$(PY) -m bench $(if $(QUICK),--quick)
	@$(PY) -m bench.policy $(if $(QUICK),--quick)

soak: ## Mixed load with kills, resets and rotations: MINUTES=20, SEED=N, SHORT=1 as CI runs it
	$(need_root)
	@scripts/setup test
	@$(PY) -m bench.soak $(if $(SHORT),--short,--minutes $(or $(MINUTES),20)) $(if $(SEED),--seed $(SEED))

wheel: ## Build the one wheel, with the Rust core inside
	@scripts/setup test
	@$(PY) -m maturin build --release --locked --target-dir hbone/target/wheel --out dist

lock: ## Renew the locked Python requirements from pyproject.toml
	@scripts/setup test
	@$(PY) -m piptools compile -q --no-emit-index-url --no-emit-find-links --generate-hashes \
		--strip-extras --allow-unsafe -o requirements.lock pyproject.toml
	@$(PY) -m piptools compile -q --no-emit-index-url --no-emit-find-links --generate-hashes \
		--strip-extras --allow-unsafe --extra dev --extra bench -c requirements.lock \
		-o requirements-dev.lock pyproject.toml
	@$(PY) -m piptools compile -q --no-emit-index-url --no-emit-find-links --generate-hashes \
		--strip-extras --allow-unsafe --extra bench -c requirements.lock \
		-o requirements-bench.lock pyproject.toml

proto: ## Generate the Python side of the .proto files
	@scripts/setup test
	@scripts/proto

cleanup: ## Remove every lab and every pin that a run left behind
	$(need_root)
	$(need_environment)
	@$(PY) -m cli.main lab down --all

clean: ## Remove what was built
	rm -rf .venv hbone/target hbone/fuzz/target agent/tunnel/_hbone*.so dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
