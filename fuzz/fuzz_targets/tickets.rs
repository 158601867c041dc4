//! `argosy_fuzz::wire::tickets`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::wire::tickets);
