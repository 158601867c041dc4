//! Why an agent cannot start, or had to stop.

use std::io;
use std::path::PathBuf;

use argosy_isolation::network::cni::CniError;
use argosy_isolation::{CgroupError, LaunchError};

use crate::journal::{JournalError, LockError};
use argosy_content::images::Fault;
pub(crate) use argosy_content::sentence;

/// The end of an agent that nobody asked for. Its tasks go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration cannot be right.
    #[error("{flag} {value:?} is not valid: {remedy}")]
    Config {
        /// As the command line names it.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What to do about it.
        remedy: String,
    },
    /// The directory could not be made or read.
    #[error("cannot use the directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent runs on it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The journal is damaged beyond use, or cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The wanted isolation is not possible here.
    #[error("{mode} isolation is not possible on this host: {why}")]
    Isolation {
        /// The mode.
        mode: &'static str,
        /// A sentence, with what to do.
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
        /// Where they were looked for.
        group: PathBuf,
    },
    /// The agent could not give up root.
    #[error("cannot divide the agent, which gives up root before it serves anybody")]
    Divide {
        /// Why.
        source: io::Error,
    },
    /// The user that a divided agent runs as cannot reach its directory.
    #[error(
        "user {user}, as whom an agent runs that gives up root, cannot reach {directory}: {folder} is closed to other \
         users; open it with chmod o+x, or give the agent a --data-dir elsewhere"
    )]
    Unreachable {
        /// The directory.
        directory: PathBuf,
        /// What is closed.
        folder: PathBuf,
        /// The user's number.
        user: u32,
    },
    /// What needs root could not be prepared, or the process that has it ended.
    #[error("{why}")]
    Broker {
        /// In words.
        why: String,
    },
    /// A CNI network cannot be offered to tasks.
    #[error(transparent)]
    Cni(#[from] CniError),
    /// The store of images could not be opened.
    #[error("cannot open the store of images")]
    Images {
        /// Why.
        source: Fault,
    },
    /// The thread of the agent's loop could not be started.
    #[error("cannot start a thread: raise the limits of processes and memory")]
    Thread {
        /// Why.
        source: std::io::Error,
    },
    /// The cgroup tree could not be made.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The launcher could not be started.
    #[error(transparent)]
    Launcher(#[from] LaunchError),
    /// Something of an earlier life could not be cleared away.
    #[error("cannot clear away containers of an earlier life")]
    Orphans {
        /// Why.
        source: io::Error,
    },
    /// The API stopped answering.
    #[error("the agent's API cannot be served")]
    Api {
        /// Why.
        source: io::Error,
    },
    /// The host could not be asked about itself.
    #[error("cannot read {path}")]
    Host {
        /// What was read.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
