//! `argosy-chaos ledger`: checks the ledger against the minimums of a release.

use std::path::PathBuf;

use clap::Args;

use super::{read, shortfalls};

/// Checks that the ledger reaches every minimum of a release
#[derive(Debug, Args)]
pub struct LedgerArguments {
    /// The ledger file
    #[arg(value_name = "FILE", default_value = "docs/chaos-ledger.jsonl")]
    file: PathBuf,
}

/// Prints each minimum that is not reached. Returns the exit code: 0 if all are, 2 if the file
/// cannot be read, 3 otherwise.
#[must_use]
pub fn ledger(arguments: &LedgerArguments) -> u8 {
    let file = arguments.file.display();
    let text = match std::fs::read_to_string(&arguments.file) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("argosy-chaos: cannot read {file}: {error}");
            return 2;
        }
    };
    let lines = match read(&text) {
        Ok(lines) => lines,
        Err(error) => {
            eprintln!("argosy-chaos: {file}: {error}");
            return 2;
        }
    };
    let short = shortfalls(&lines);
    if short.is_empty() {
        println!("{file} reaches every minimum of a release");
        return 0;
    }
    for sentence in &short {
        println!("{sentence}");
    }
    println!("{file} misses {} minimums of a release", short.len());
    3
}
