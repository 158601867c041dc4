//! `argosy_fuzz::wire::task_description`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::wire::task_description);
