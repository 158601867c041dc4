//! `argosy_fuzz::hosts::registry_texts`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::hosts::registry_texts);
