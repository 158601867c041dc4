//! The audit log of a process: who was refused, and who has used what gives access to tasks.
//!
//! It consists of lines in numbered files of one directory. Each line is a JSON object that ends
//! with a hash over itself and the hash of the line before, so that a line cannot be changed,
//! removed, inserted or moved without a change of all hashes after it. There is no key: a process
//! that can write the files can compute all these hashes again, which shows only against a hash
//! that was noted elsewhere.
//!
//! Callers never wait: entries go to a thread through a bounded queue, and entries that are lost
//! are counted in the log itself. Reading order: `entry` (what a line states), `time`, `chain`,
//! `numbering` (names of files), `repeats` (which entries become one line), `lines` (rotation),
//! `storage` (the directory), `log` (queue and thread), `verify`.

mod chain;
mod entry;
mod lines;
mod log;
mod numbering;
mod repeats;
mod storage;
mod time;
mod verify;

pub use chain::ChainValue;
pub use entry::{AuditEntry, AuditEvent, AuditLine, FileHead, UnknownEvent};
pub use log::{AuditLog, AuditNotice, AuditSettings, AuditWriter};
pub use numbering::{number_of, paths};
pub use time::rfc3339;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use verify::verified_lines;
pub use verify::{AuditRead, Break, BreakReason, VerifiedLog, read, verify};
