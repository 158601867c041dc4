//! `argosy_fuzz::peers::peer_message`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::peers::peer_message);
