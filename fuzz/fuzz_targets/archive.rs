//! `argosy_fuzz::archives::archive`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::archives::archive);
