//! The reasons why an agent cannot start, or had to stop.

use std::io;
use std::path::PathBuf;

use argosy_isolation::{CgroupError, LaunchError};
use argosy_network::cni::CniError;

use crate::journal::{JournalError, LockError};
pub(crate) use argosy_content::error_chain;
use argosy_content::images::PullErrorKind;

/// An unrequested end of the agent. Its tasks continue.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is invalid.
    #[error("{flag} {value:?} is not valid: {remedy}")]
    Config {
        flag: &'static str,
        value: String,
        remedy: String,
    },
    /// The directory could not be created or read.
    #[error("cannot use the directory {path}")]
    Directory { path: PathBuf, source: io::Error },
    /// Another agent runs on it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The journal is damaged beyond use, or cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The requested isolation is not possible here.
    #[error("{mode} isolation is not possible on this host: {why}")]
    Isolation {
        mode: &'static str,
        /// A message with the remedy.
        why: String,
    },
    /// Controllers are missing.
    #[error(
        "this host has no cgroup v2 controller {controllers} for containers in {group}: enable them, or \
         start with --allow-missing-controllers and these limits are not enforced"
    )]
    MissingControllers {
        /// Their names.
        controllers: String,
        /// The cgroup that lacks them.
        group: PathBuf,
    },
    /// The agent could not give up root.
    #[error("cannot divide the agent, which gives up root before it serves requests")]
    SplitPrivileges { source: io::Error },
    /// The user that a divided agent runs as has no access to its directory.
    #[error(
        "user {user}, as which an agent without root runs, has no access to {directory}: {closed} is closed to other \
         users; open it with chmod o+x, or give the agent a --data-dir elsewhere"
    )]
    Unreachable {
        directory: PathBuf,
        /// The directory above it that others cannot search.
        closed: PathBuf,
        /// The user's id.
        user: u32,
    },
    /// The operations that need root could not be prepared, or the broker has ended.
    #[error("{why}")]
    Broker { why: String },
    /// A CNI network cannot be offered to tasks.
    #[error(transparent)]
    Cni(#[from] CniError),
    /// The image store could not be opened.
    #[error("cannot open the image store")]
    Images { source: PullErrorKind },
    /// The thread of the agent's loop could not be started.
    #[error("cannot start a thread: raise the limits of processes and memory")]
    Thread { source: std::io::Error },
    /// The cgroup tree could not be created.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The launcher could not be started.
    #[error(transparent)]
    Launcher(#[from] LaunchError),
    /// The remains of an earlier run could not be removed.
    #[error("cannot remove containers of an earlier run")]
    Orphans { source: io::Error },
    /// The API stopped answering.
    #[error("the agent's API cannot be served")]
    Api { source: io::Error },
    /// Properties of the host could not be read.
    #[error("cannot read {path}")]
    Host {
        /// The file that was read.
        path: PathBuf,
        source: io::Error,
    },
}
