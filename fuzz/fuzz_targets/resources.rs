//! `argosy_fuzz::registry::resources`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::registry::resources);
