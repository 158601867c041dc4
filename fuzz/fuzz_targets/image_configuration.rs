//! `argosy_fuzz::hosts::image_configuration`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::hosts::image_configuration);
