//! `argosy_fuzz::hosts::launch_order`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::hosts::launch_order);
