//! `argosy_fuzz::certificates::certificate_texts`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::certificates::certificate_texts);
