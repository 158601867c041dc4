//! `argosy_fuzz::peers::log_entry`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::peers::log_entry);
