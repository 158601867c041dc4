//! `argosy_fuzz::wire::json_messages`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::wire::json_messages);
