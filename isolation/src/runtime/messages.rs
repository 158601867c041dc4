//! The messages between agent, launcher, supervisor and init.
//!
//! All run on one host and are of one build, so JSON and single bytes are enough; nothing here is
//! stored.

use std::os::fd::AsRawFd;
use std::path::Path;

use argosy_host::BootTime;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use crate::state_dir::{Exit, Handle, LifetimeUsage};

/// The maximum length of a launch request, in bytes as sent.
pub const LAUNCH_LIMIT_BYTES: usize = 2 * 1024 * 1024;
/// The maximum length of the path in a unix socket address, in bytes with its terminator.
const ADDRESS_LIMIT_BYTES: usize = 108;

/// A message of a supervisor to a connected agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SupervisorNotice {
    /// The command is executed. The first message on every connection to a running container.
    Started(Box<Handle>),
    /// It has ended, or could not be started. The last message on every connection.
    Exited(Box<Exit>),
}

/// An order of an agent to a supervisor. All but the last two are idempotent; each of those brings
/// a new session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SupervisorRequest {
    /// Sends a signal to the command's process group.
    Signal { signal: i32 },
    /// Sends the stop signal, and after the grace period KILL to everything.
    Kill { grace_ms: u64 },
    /// Extends the `stop_after` deadline; it never moves back.
    Renew { deadline: BootTime },
    /// Passes the accompanying session to init, for an exec command.
    #[serde(rename = "enter")]
    Exec,
    /// Attaches the accompanying session to the command's streams.
    Attach { stdin: bool },
}

/// A message of a container's init to its supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum InitReport {
    /// The command's terminal; both ends come with this message. Sent before the execution.
    Terminal,
    /// The command is executed.
    Started,
    /// The command cannot be executed, with the reason.
    Failed { reason: String },
    /// It has ended, with the status as `wait(2)` encodes it.
    Ended { status: i32, usage: LifetimeUsage },
}

/// A message of a supervisor to a container's init.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum InitInstruction {
    /// The user map of the user namespace is set.
    Mapped,
    /// The handle is on disk: execute the command.
    Go,
    /// Sends a signal to the command's process group.
    Signal(i32),
    /// Starts an exec command for the accompanying session.
    #[serde(rename = "Enter")]
    Exec,
}

/// Calls `action` with a path for `directory/name` that fits into a socket address, however long
/// the directory's path is.
pub(crate) fn with_short_path<T>(
    directory: &Path,
    name: &str,
    action: impl FnOnce(&Path) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let whole = directory.join(name);
    if whole.as_os_str().len() < ADDRESS_LIMIT_BYTES {
        return action(&whole);
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = open(directory, flags, Mode::empty())?;
    action(Path::new(&format!(
        "/proc/self/fd/{}/{name}",
        dir.as_raw_fd()
    )))
}
