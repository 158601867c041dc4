//! `argosy_fuzz::requests::http_query`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::requests::http_query);
