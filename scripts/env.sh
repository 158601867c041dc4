# Sourced by the Makefile's recipes and by people: where the build keeps what outlives a checkout.
#
# ARGOSY_CACHE   the cache folder (default ~/.cache/argosy): RocksDB, the cargo target folder, tools.
# CHAOS_LEDGER   the file to which each batch of a harness appends its lines (default: in the cache folder).
ARGOSY_CACHE="${ARGOSY_CACHE:-$HOME/.cache/argosy}"
export ARGOSY_CACHE
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$ARGOSY_CACHE/target}"
export ROCKSDB_LIB_DIR="$ARGOSY_CACHE/rocksdb-0.19.0"
export ROCKSDB_STATIC=1
export CHAOS_LEDGER="${CHAOS_LEDGER:-$ARGOSY_CACHE/chaos-ledger.jsonl}"
# For tests: a test program that hangs is ended, long before its stage is; its last lines name the test.
bounded_tests() {
  local host
  host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
  export "CARGO_TARGET_${host}_RUNNER=timeout --foreground --kill-after=10 1200"
}
# What `make demo` builds, not optimized, and half of `make unit` needs, too.
export DEMO_PACKAGES='--package argosy-cli --package argosy-frameworks'
# What `make build` builds. Other sets of packages make cargo build shared crates again, with other features.
export RELEASE_PACKAGES='--package argosy-cli --package argosy-frameworks --package argosy-bench'
