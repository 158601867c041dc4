//! `argosy_fuzz::registry::record_key`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::registry::record_key);
