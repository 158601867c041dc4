//! `argosy_fuzz::hosts::hand_off_file`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::hosts::hand_off_file);
