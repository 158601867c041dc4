//! The start of a master: alone, as a member of a new group, after a restart, or after its data was
//! lost.
//!
//! Reading order: `decision` (what the directory and the peers imply; pure), `run` (queries the
//! peers), `startup` (assembles the parts).

pub(crate) mod decision;
pub(crate) mod run;
pub(crate) mod startup;
