//! `argosy_fuzz::command_line::context_file`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::command_line::context_file);
