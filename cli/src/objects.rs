//! Commands on the objects of a cluster, one file per object.
//!
//! Each command makes its calls, chooses the exit code, and passes records to `output`.

pub(crate) mod agents;
pub(crate) mod frameworks;
pub(crate) mod groups;
pub(crate) mod masters;
pub(crate) mod offers;
pub(crate) mod tasks;
