//! `argosy_fuzz::hosts::docker_credentials`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::hosts::docker_credentials);
