//! `argosy_fuzz::wire::exec_frames`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::wire::exec_frames);
