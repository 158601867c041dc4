//! `argosy_fuzz::command_line::flag_value`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::command_line::flag_value);
