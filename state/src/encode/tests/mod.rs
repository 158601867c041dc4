//! Tests of stored bytes: golden files, and samples of every record and command.

mod golden;
pub(super) mod samples;
