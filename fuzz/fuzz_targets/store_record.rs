//! `argosy_fuzz::peers::store_record`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::peers::store_record);
