//! The program `argosy-launcher`: the process from which an agent's containers are made, and
//! nothing else.
//!
//! Each container begins with copies of it, so it is small and links only the crate `isolation`.
//! Agents find it in the directory of their own program. It works only with agents of its own
//! release, which `--version` checks.

use std::error::Error;
use std::process::ExitCode;

use argosy_isolation::launcher;

fn main() -> ExitCode {
    let first = std::env::args_os().nth(1);
    if first.is_some_and(|word| word == "--version") {
        println!("argosy-launcher {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    match launcher::run_from_fd() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("argosy-launcher: {}", error_chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Returns an error with its causes.
fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
