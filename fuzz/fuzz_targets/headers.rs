//! `argosy_fuzz::requests::headers`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::requests::headers);
