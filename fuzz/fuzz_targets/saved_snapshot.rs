//! `argosy_fuzz::registry::saved_snapshot`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::registry::saved_snapshot);
