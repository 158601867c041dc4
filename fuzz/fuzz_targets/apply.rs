//! `argosy_fuzz::registry::apply`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::registry::apply);
