//! `argosy_fuzz::peers::snapshot`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::peers::snapshot);
