//! `argosy_fuzz::wire::agent_facts`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::wire::agent_facts);
