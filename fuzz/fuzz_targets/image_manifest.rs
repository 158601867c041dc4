//! `argosy_fuzz::hosts::image_manifest`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::hosts::image_manifest);
