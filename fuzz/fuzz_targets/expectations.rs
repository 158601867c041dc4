//! `argosy_fuzz::requests::expectations`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::requests::expectations);
