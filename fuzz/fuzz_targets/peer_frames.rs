//! `argosy_fuzz::peers::peer_frames`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::peers::peer_frames);
