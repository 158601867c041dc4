//! `argosy_fuzz::requests::write_batch`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::requests::write_batch);
