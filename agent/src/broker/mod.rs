//! Operations of an agent that need root: the agent requests them from a broker, which checks them.
//!
//! ```text
//! agent, user argosy-agent ──sockets──▶ broker, root ──socket──▶ spawner, root
//!                                       ──exec──▶ launcher, content service, nft, plugins
//! ```
//! An agent that is started as root divides itself before it has threads (`division`): a copy of it
//! keeps root, the rest continues as another user. Where it is not divided, without root or with
//! less isolation, the same requests are performed in the agent's own process, with the same
//! checks.
//!
//! The broker executes nothing and has a system call filter (`argosy_host::spawner`). It runs
//! no runtime, has no socket but those to its agent, and reads no untrusted file but the state
//! files of its own supervisors. It trusts no data of the agent: paths are computed from names, or
//! compared with computed ones (`guard`); every directory on the path belongs to root
//! (`directories`), so that none of them is a link. The agent's end is `broker_client`. Reading
//! order: `operations/perform`, `operations`, `guard`, `directories`, `content_process`, `server`.

mod content_process;
mod directories;
mod guard;
mod operations;
mod server;
#[cfg(test)]
mod size;
#[cfg(test)]
mod tests;

#[cfg(feature = "fuzzing")]
use std::path::Path;

pub(crate) use self::operations::{PrivilegedOperations, prepare};
pub use self::server::separate_privileges;
#[cfg(feature = "fuzzing")]
use crate::paths::Paths;

/// Returns whether an agent may request work on a path, for a fuzz target.
#[cfg(feature = "fuzzing")]
pub(crate) fn accepts_path(paths: &Paths, path: &Path) -> bool {
    guard::is_measurable(paths, path).is_ok() || guard::is_layer(paths, path).is_ok()
}
