//! `argosy_fuzz::command_line::scrubbed_line`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::command_line::scrubbed_line);
