//! `argosy_fuzz::registry::command`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::registry::command);
