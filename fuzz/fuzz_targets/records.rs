//! `argosy_fuzz::registry::records`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::registry::records);
