//! `argosy_fuzz::requests::redacted_uri`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::requests::redacted_uri);
