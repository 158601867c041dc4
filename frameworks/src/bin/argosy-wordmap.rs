//! The program that word counting runs on the agents; see `argosy_frameworks::wordmap`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match argosy_frameworks::wordmap::main(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("argosy-wordmap: {error:#}");
            ExitCode::FAILURE
        }
    }
}
