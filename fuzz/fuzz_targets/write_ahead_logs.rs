//! `argosy_fuzz::peers::write_ahead_logs`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::peers::write_ahead_logs);
