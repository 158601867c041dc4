//! The state directory: files through which a container's supervisor and its agents communicate.
//!
//! ```text
//! <work>/containers/<id>/        mode 0700; created by the agent before the launch
//!   handle.json    its processes, or "void": cancelled; written once, before execution
//!   exit.json      the exit status; written once, before the supervisor exits
//!   control        the supervisor's socket, once the agent that launched it has exited
//!   output.json    offsets of the output files, once they were rotated; here by default
//! <sandbox>/
//!   stdout stderr  the newest output; earlier output is in stdout.1, stdout.2, …: see `output`
//! ```
//! `handle.json` decides: the process that creates it first, supervisor or adopter, controls the
//! start. There are few files, since each new one costs tens of microseconds on a disk: the agent
//! keeps the request itself.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use argosy_host::atomic_file::{Draft, Durability, WriteOptions};
use argosy_host::{ContainerId, ProcessId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cgroup::oom::OomKill;
use crate::spec::limits::MissingControllers;
use argosy_host::crash_point;

/// A started container, with the data by which another process can find it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handle {
    /// The format of this file: 1.
    pub version: u32,
    pub container: ContainerId,
    /// The nonce of the launch.
    pub nonce: u64,
    /// The boot in which all process ids below are valid.
    pub boot_id: String,
    /// The process that holds the container's stdio and exit status.
    pub supervisor: ProcessId,
    /// The container's first process; the command is its child.
    pub init: ProcessId,
    pub cgroup: Option<PathBuf>,
    /// Limits that are not enforced because a controller is missing.
    pub missing: MissingControllers,
    /// Wall clock at the start, in milliseconds since 1970; for display only.
    pub started_at_ms: u64,
    /// Whether clients can attach to the command: supervisors of earlier releases do not support
    /// it.
    #[serde(default)]
    pub attachable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandOutcome {
    /// It exited with this code, 0 to 255.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
    /// It was never executed; the reason has the cause.
    NotStarted,
}

impl CommandOutcome {
    /// Decodes a status of `wait(2)`.
    pub(crate) fn of_status(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signaled(libc::WTERMSIG(status))
        } else {
            Self::Exited(libc::WEXITSTATUS(status))
        }
    }
}

/// The reason why the supervisor ended a running container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The agent ordered it.
    Ordered,
    /// The deadline `stop_after` passed without a renewal.
    StopAfter,
}

/// Resource usage of the container over its lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LifetimeUsage {
    /// Processor time, in milliseconds.
    pub cpu_ms: u64,
    /// Peak memory, in bytes: of the group where the host counts it, else of the command's largest
    /// process.
    pub peak_memory_bytes: Option<u64>,
}

/// The end of a container. Supervisors of earlier releases write and send it as well: later fields
/// have a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The outcome of its command.
    pub outcome: CommandOutcome,
    /// The same as text.
    pub reason: String,
    /// Set if the supervisor ended it.
    pub stop: Option<StopReason>,
    /// Whether processes of the container were OOM killed.
    pub out_of_memory: bool,
    /// The figures of the OOM kill; `None` from a supervisor of a release without them.
    #[serde(default)]
    pub memory_shortage: Option<OomKill>,
    /// Whether the last lines of its output report an operation that needs a capability that it
    /// lacks: changing the owner of a file, or its user or groups.
    #[serde(default)]
    pub lacks_capability: bool,
    /// Whether only the container's files and its supervisor are left, which is about to exit: its
    /// group is removed, and it has no socket. Set only in a notice, never in a file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nothing_left: bool,
    pub usage: LifetimeUsage,
    /// Wall clock at the end, in milliseconds since 1970; for display only.
    pub finished_at_ms: u64,
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.reason)
    }
}

/// The content of `handle.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HandleFile {
    /// A supervisor has started it.
    #[serde(rename = "held")]
    Started(Box<Handle>),
    /// An agent has cancelled the start.
    #[serde(rename = "void")]
    Cancelled,
}

/// The error for a state file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateDirectoryError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
}

/// One container's state directory.
#[derive(Debug, Clone)]
pub(crate) struct StateDirectory {
    directory: PathBuf,
}

impl StateDirectory {
    pub(crate) fn at(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.directory.join("control")
    }

    pub(crate) fn write_exit(
        &self,
        exit: &Exit,
        durability: Durability,
    ) -> Result<(), StateDirectoryError> {
        self.replace("exit.json", exit, durability)?;
        crash_point!("handoff.exit-written");
        Ok(())
    }

    /// Returns the exit status, or `None` if there is none. A file that a power cut left empty or
    /// truncated counts as none.
    pub(crate) fn exit(&self) -> Result<Option<Exit>, StateDirectoryError> {
        self.read("exit.json")
    }

    /// Cancels the start, unless it is claimed already: then returns the claim.
    ///
    /// Checks first: a container that ends has been claimed, and creating and removing a draft
    /// costs a disk as much as everything else at its end.
    pub(crate) fn cancel(&self) -> Result<HandleFile, StateDirectoryError> {
        match self.read_claim()? {
            Some(claimed) => Ok(claimed),
            None => self.claim(&HandleFile::Cancelled),
        }
    }

    /// Creates `handle.json`, or returns the existing claim.
    pub(crate) fn claim(&self, claim: &HandleFile) -> Result<HandleFile, StateDirectoryError> {
        let draft = self.draft("handle.json", claim, Durability::Cached)?;
        crash_point!("handoff.claim-drafted");
        match draft.claim(OsStr::new("handle.json")) {
            Ok(()) => {
                crash_point!("handoff.claimed");
                Ok(claim.clone())
            }
            // It is created atomically, so it is unreadable only if a power cut truncated it: the
            // processes of that boot no longer exist.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(self.read_claim()?.unwrap_or(HandleFile::Cancelled))
            }
            Err(source) => Err(self.failed("handle.json", source)),
        }
    }

    /// Returns the content of `handle.json`, if it exists.
    pub(crate) fn read_claim(&self) -> Result<Option<HandleFile>, StateDirectoryError> {
        self.read("handle.json")
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateDirectoryError> {
        let path = self.directory.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateDirectoryError::Read { path, source }),
        }
    }

    fn replace<T: Serialize>(
        &self,
        name: &str,
        value: &T,
        durability: Durability,
    ) -> Result<(), StateDirectoryError> {
        let draft = self.draft(name, value, durability)?;
        let renamed = draft.replace(OsStr::new(name));
        renamed.map_err(|source| self.failed(name, source))
    }

    /// Writes the whole content under a name that only this process uses.
    fn draft<T: Serialize>(
        &self,
        name: &str,
        value: &T,
        durability: Durability,
    ) -> Result<Draft, StateDirectoryError> {
        let options = WriteOptions {
            mode: 0o644,
            durability,
        };
        let draft = format!(".{name}.{}", std::process::id());
        let bytes = serde_json::to_vec(value).map_err(io::Error::from);
        bytes
            .and_then(|bytes| Draft::write(&self.directory, draft.as_ref(), &bytes, options))
            .map_err(|source| self.failed(name, source))
    }

    fn failed(&self, name: &str, source: io::Error) -> StateDirectoryError {
        let path = self.directory.join(name);
        StateDirectoryError::Write { path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::oom::OomScope;

    fn handle() -> Handle {
        let process = ProcessId {
            pid: 7,
            start_ticks: 8,
        };
        Handle {
            version: 1,
            container: ContainerId::new("c").unwrap(),
            nonce: 5,
            boot_id: "b".into(),
            supervisor: process,
            init: process,
            cgroup: None,
            missing: MissingControllers::default(),
            started_at_ms: 1,
            attachable: true,
        }
    }

    fn exit() -> Exit {
        Exit {
            outcome: CommandOutcome::Exited(7),
            reason: "exited with code 7".into(),
            stop: None,
            out_of_memory: false,
            memory_shortage: None,
            lacks_capability: false,
            nothing_left: false,
            usage: LifetimeUsage::default(),
            finished_at_ms: 2,
        }
    }

    #[test]
    fn only_the_first_claim_of_a_start_succeeds() {
        let directory = tempfile::tempdir().unwrap();
        let files = StateDirectory::at(directory.path());
        assert_eq!(files.read_claim().unwrap(), None);
        let held = HandleFile::Started(Box::new(handle()));
        assert_eq!(files.claim(&held).unwrap(), held);
        assert_eq!(files.claim(&HandleFile::Cancelled).unwrap(), held);
        assert_eq!(files.cancel().unwrap(), held);
        assert_eq!(files.read_claim().unwrap(), Some(held));
    }

    #[test]
    fn cancelling_a_claimed_start_creates_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let files = StateDirectory::at(directory.path());
        files
            .claim(&HandleFile::Started(Box::new(handle())))
            .unwrap();
        let opened = fs::File::open(directory.path()).unwrap();
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        opened.set_modified(long_ago).unwrap();
        files.cancel().unwrap();
        let changed = opened.metadata().unwrap().modified().unwrap();
        assert_eq!(changed, long_ago, "the directory was written to");
    }

    #[test]
    fn a_cancelled_start_cannot_be_claimed() {
        let directory = tempfile::tempdir().unwrap();
        let files = StateDirectory::at(directory.path());
        assert_eq!(files.cancel().unwrap(), HandleFile::Cancelled);
        assert_eq!(files.cancel().unwrap(), HandleFile::Cancelled);
        let late = HandleFile::Started(Box::new(handle()));
        assert_eq!(files.claim(&late).unwrap(), HandleFile::Cancelled);
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            1,
            "no draft is left"
        );
    }

    #[test]
    fn an_exit_round_trips_and_a_truncated_one_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let files = StateDirectory::at(directory.path());
        assert_eq!(files.exit().unwrap(), None);
        files.write_exit(&exit(), Durability::Synced).unwrap();
        assert_eq!(files.exit().unwrap(), Some(exit()));
        fs::write(directory.path().join("exit.json"), "{\"outcome\":{\"ex").unwrap();
        assert_eq!(files.exit().unwrap(), None);
    }

    #[test]
    fn a_wait_status_is_decoded() {
        assert_eq!(CommandOutcome::of_status(7 << 8), CommandOutcome::Exited(7));
        assert_eq!(CommandOutcome::of_status(9), CommandOutcome::Signaled(9));
        let with_core_dump = CommandOutcome::of_status(6 | 0x80);
        assert_eq!(with_core_dump, CommandOutcome::Signaled(6));
    }

    #[test]
    fn exits_are_compatible_with_an_earlier_release() {
        let earlier = r#"{"outcome":{"signaled":9},"reason":"killed","stop":null,"out_of_memory":true,
            "usage":{"cpu_ms":3,"peak_memory_bytes":4096},"finished_at_ms":2}"#;
        let read: Exit = serde_json::from_str(earlier).unwrap();
        assert_eq!((read.out_of_memory, read.memory_shortage), (true, None));
        assert!(!read.lacks_capability);
        #[derive(Debug, serde::Deserialize)]
        struct EarlierExit {
            out_of_memory: bool,
            usage: LifetimeUsage,
        }
        let mut now = exit();
        now.memory_shortage = Some(OomKill {
            of: OomScope::Container,
            limit_bytes: None,
            used_bytes: Some(1),
            killed: 1,
        });
        let reported = serde_json::to_string(&now).unwrap();
        assert_eq!(serde_json::from_str::<Exit>(&reported).unwrap(), now);
        let read: EarlierExit = serde_json::from_str(&reported).unwrap();
        assert_eq!((read.out_of_memory, read.usage), (false, now.usage));
    }

    #[test]
    fn a_claim_fails_in_a_removed_directory() {
        let directory = tempfile::tempdir().unwrap();
        let files = StateDirectory::at(&directory.path().join("gone"));
        let error = files.claim(&HandleFile::Cancelled).unwrap_err();
        assert!(error.to_string().starts_with("cannot write"), "{error}");
    }
}
