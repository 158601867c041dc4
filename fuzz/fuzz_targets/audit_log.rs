//! `argosy_fuzz::hosts::audit_log`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::hosts::audit_log);
