//! `argosy_fuzz::registry::names`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::registry::names);
