//! `argosy_fuzz::certificates::certificate`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::certificates::certificate);
