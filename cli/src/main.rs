//! The program `argosy`: its allocator. All other code is in the library of this crate.

use std::process::ExitCode;

// See docs/adr/0088-jemalloc.md. On arm64 the page size is the kernel's choice, and jemalloc has to
// know it at build time.
#[cfg(target_arch = "x86_64")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    argosy_cli::main()
}
