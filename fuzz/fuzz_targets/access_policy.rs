//! `argosy_fuzz::registry::access_policy`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::registry::access_policy);
