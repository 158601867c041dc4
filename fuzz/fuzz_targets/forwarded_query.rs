//! `argosy_fuzz::requests::forwarded_query`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::requests::forwarded_query);
