//! `argosy-vm`: tests in a small virtual machine. The same executable generates the load inside it.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    argosy_chaos::vm::run(&argosy_chaos::vm::Arguments::parse())
}
