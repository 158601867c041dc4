//! `argosy_fuzz::hosts::accounts`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::hosts::accounts);
