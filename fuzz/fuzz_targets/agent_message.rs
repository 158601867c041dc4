//! `argosy_fuzz::hosts::agent_message`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::hosts::agent_message);
