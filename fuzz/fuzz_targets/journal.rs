//! `argosy_fuzz::hosts::journal`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::hosts::journal);
