//! `argosy_fuzz::hosts::networks`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::hosts::networks);
