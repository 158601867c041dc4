//! The program `argosy`. Everything is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    argosy_cli::main()
}
