# The commands of this project. `make help` lists them; CONTRIBUTING.md describes their use.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
ENV := source scripts/env.sh &&
STAGE := scripts/stage

.PHONY: help setup build deb demo test test-long bare-root verify fix unit attacks release process test-deb test-deploy-short simulate chaos ledger test-deploy test-vm test-arm64 bench

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12

setup: ## install build dependencies; RocksDB is built once per machine
	@scripts/setup

build: setup ## build the optimized executables
	@$(ENV) cargo build --locked --release $$RELEASE_PACKAGES --package argosy-bench

deb: setup ## build Debian packages from the optimized executables
	@scripts/deb

demo: setup ## run work on a cluster, kill two leaders and an agent, verify everything
	@$(ENV) cargo build --locked $$DEMO_PACKAGES
	ARGOSY_BIN_DIR="$$CARGO_TARGET_DIR/debug" exec scripts/demo

test: setup ## run the whole gate; includes verify
	@$(ENV)
	started=$$(date +%s)
	scripts/source-times restore
	scripts/early-build &
	simulated=
	# Only what still runs: the number of a process that has ended may be that of another one.
	trap 'kill $$(jobs -rp) 2> /dev/null && wait || true; rm -f $$simulated; scripts/source-times record || true' EXIT
	$(STAGE) verify 140/300 make verify
	$(STAGE) unit 1100/1860 make unit
	# Without anything that early-build has built, on a slow machine.
	$(STAGE) release 30/400/2700 make release
	# Its output follows that of chaos.
	simulated=$$(mktemp)
	$(STAGE) simulate 900/1000 scripts/idle make simulate > $$simulated 2>&1 & simulations=$$!
	$(STAGE) process 400/750 make process
	$(STAGE) deploy 170/240 make test-deploy-short
	$(STAGE) demo 60/60 scripts/demo
	$(STAGE) chaos 160/240 make chaos
	wait $$simulations && ended=0 || ended=$$?
	cat $$simulated
	[ $$ended = 0 ]
	$(STAGE) vm 330/330 make test-vm
	$(STAGE) summary
	printf 'all 9 stages passed, %d s\n' $$(( $$(date +%s) - started ))

test-long: setup ## run 2,000 launches and kills, the arm64 seccomp filter, all escape techniques and attacks from outside in a virtual machine, containers with the address sanitizer, all fuzz targets, then chaos for CHAOS_HOURS [8], recorded in the ledger; may be interrupted and restarted
	@$(ENV)
	# A failing part does not stop the others; the target fails at the end.
	failed=()
	part() { "$$@" || failed+=("$$*"); }
	part env ARGOSY_CYCLES=2000 cargo test --locked --package argosy-agent --test end_to_end -- --each-matches cycles
	part env ARGOSY_LONG=1 cargo test --locked --release --package argosy-state --test properties --test reference_model --test release --test speed --test memory
	part cargo test --locked --package argosy-state --features testing --test reference_model
	part env ARGOSY_LONG=1 cargo test --locked --release --package argosy-model
	part env ARGOSY_LONG=1 cargo test --locked --package argosy-raft --features shuttle --lib schedules
	# Masters of release 0.1.0, built from its commit, in one group with those of this tree.
	part env ARGOSY_LONG=1 cargo test --locked --release --package argosy-cli --test process upgrade -- --test-threads=1
	part scripts/test-arm64
	part scripts/test-vm cases --limit 600 layers-as-root
	part scripts/test-vm power-cuts --loaded --cuts 1 --lying-disks agent
	# Limited by processor time, not by wall time: no deadline passes because the host is busy.
	part scripts/test-vm cases --clock instructions --limit 1800 outside
	part scripts/chaos-planted --timeout 900
	[ "$$(id -u)" != 0 ] || part scripts/chaos-planted --place processes
	[ "$$(id -u)" != 0 ] || part scripts/sanitize
	part cargo test --locked --manifest-path fuzz/Cargo.toml
	part scripts/fuzz --seconds 60
	part cargo build --locked --release --package argosy-cli --package argosy-chaos
	part scripts/chaos-long
	part make ledger
	[ "$${#failed[@]}" = 0 ] || { printf 'FAILED %s\n' "$${failed[@]}"; exit 1; }

bare-root: ## run the README's two commands three times in a row, in a bare Debian root; takes hours
	@scripts/bare-root

verify: ## check format, lints, docs, licences, Ansible; writes nothing
	@$(ENV)
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	scripts/diagrams --check
	cargo clippy --locked --workspace --all-targets --features argosy-raft/rocksdb -- --deny warnings
	scripts/licences
	scripts/ansible-lint
	RUSTDOCFLAGS='--deny warnings --cfg tokio_unstable' cargo doc --locked --workspace --no-deps --quiet

fix: ## format the code
	@$(ENV) cargo fmt --all

unit: ## run tests of all crates that need no cluster of optimized processes
	@$(ENV)
	scripts/unit-tests 2>&1 | scripts/techniques 250 | scripts/skips

attacks: setup ## run escape techniques from containers, and attacks from outside them; part of unit
	@$(ENV)
	{
	cargo test --locked --package argosy-isolation --test root -- --each-matches escape_technique separate_network a_service_ bomb filler flood zombies daemons_in storm ignores_sigterm deep_and
	cargo test --locked --package argosy-agent --test end_to_end -- --each-matches bombs without_a_memory_request
	cargo test --locked --package argosy-cli --test dev outside
	} 2>&1 | scripts/techniques 250 | scripts/skips

release: ## build the optimized executables and harnesses that the later stages run, without setup
	@$(ENV)
	cargo build --locked --release $$RELEASE_PACKAGES
	cargo build --locked --release $$HARNESS_PACKAGES

process: ## test failover and bad input on real processes
	@$(ENV)
	scripts/process-tests 2>&1 | scripts/skips

test-deb: ## package the executables of `make release` twice, compare and test the packages and their units
	@$(ENV)
	scripts/deb-test --bin-dir "$$CARGO_TARGET_DIR/release" 2>&1 | scripts/skips

test-deploy-short: ## test the package on one Debian host, by systemd-nspawn, with the executables of `make release`; then the playbooks without hosts
	@$(ENV)
	{ scripts/test-deploy short && scripts/test-playbooks; } 2>&1 | scripts/skips

test-deploy: build ## deploy seven Debian hosts by Ansible, on this machine
	@$(ENV)
	scripts/test-deploy short
	scripts/test-deploy long

simulate: ## run simulated clusters by seed with all checkers, and find eight planted bugs
	@$(ENV) cargo build --locked --release $$HARNESS_PACKAGES
	{ scripts/chaos-short simulated && scripts/chaos-planted; } 2>&1 | scripts/skips

chaos: ## kill 25 leaders of real processes and inject every fault once, with all checkers
	@$(ENV) cargo build --locked --release $$HARNESS_PACKAGES
	scripts/chaos-short real 2>&1 | scripts/skips

ledger: ## add the batches that the harnesses have run here to the project's ledger
	@scripts/ledger

test-vm: ## test kernel limits, failing disks and power cuts, in a virtual machine without KVM
	@$(ENV)
	scripts/test-vm 2>&1 | scripts/skips

test-arm64: ## test the seccomp filter, compiled for arm64 and run under QEMU's user emulation
	@scripts/test-arm64

bench: ## measure registry, tasks and failover and their peers; takes minutes
	@scripts/setup bench
	$(ENV) cargo build --locked --release $$RELEASE_PACKAGES --package argosy-bench
	"$$CARGO_TARGET_DIR/release/argosy-bench" all
