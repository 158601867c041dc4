//! `argosy_fuzz::requests::file_path`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::requests::file_path);
