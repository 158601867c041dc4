//! `argosy_fuzz::archives::layer`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::archives::layer);
