//! `argosy_fuzz::wire::framework_facts`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::wire::framework_facts);
