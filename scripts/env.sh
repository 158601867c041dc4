# Sourced by the Makefile's recipes and by developers: the location of build artifacts that outlive
# a checkout.
#
# ARGOSY_CACHE   the cache directory (default ~/.cache/argosy): RocksDB, the cargo target directory,
# tools.
# CHAOS_LEDGER   the file to which each batch of a harness appends its lines (default: in the cache
# directory).
ARGOSY_CACHE="${ARGOSY_CACHE:-$HOME/.cache/argosy}"
export ARGOSY_CACHE
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$ARGOSY_CACHE/target}"
export ROCKSDB_LIB_DIR="$ARGOSY_CACHE/rocksdb-0.19.0"
export ROCKSDB_STATIC=1
export CHAOS_LEDGER="${CHAOS_LEDGER:-$ARGOSY_CACHE/chaos-ledger.jsonl}"
# For tests: a hanging test program is killed long before its stage is, and what it leaves is killed,
# too. Takes the root of this checkout as the working directory. Its arguments are a command that
# runs before that of the test program.
bounded_tests() {
  local host
  host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
  export "CARGO_TARGET_${host}_RUNNER=$*${*:+ }$PWD/scripts/bounded 1200"
}
# The packages that `make demo` builds, not optimized.
export DEMO_PACKAGES='--package argosy-cli --package argosy-frameworks'
# The shipped packages. With other sets of packages, cargo may rebuild shared crates with other
# features; argosy-bench needs no others, and no stage of the gate runs its optimized executable.
export RELEASE_PACKAGES='--package argosy-cli --package argosy-frameworks'
# The harnesses of `make chaos` and `make test-vm`, with planted bugs that are off until a command
# plants one. One build serves both stages; the masters and agents that they start are the shipped
# executable, without planted bugs.
export HARNESS_PACKAGES='--package argosy-chaos --features argosy-chaos/testing'
# The packages of unit tests. With other sets of packages, cargo may build shared crates once more,
# with other features.
export UNIT_PACKAGES='--workspace --features argosy-raft/rocksdb'
