//! Isolation modes, and the namespaces of a container.

use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};

/// The isolation mode of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Namespaces, a cgroup and a profile, created by root. Tests also use it without a profile.
    Full,
    /// The same namespaces inside a user namespace, available to every user; a cgroup only if one
    /// is delegated.
    UserNamespaces,
    /// Plain processes in a separate session. Used only on explicit request: it isolates nothing.
    Processes,
}

impl Isolation {
    /// Returns the name used in flags and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::UserNamespaces => "user-namespaces",
            Self::Processes => "processes",
        }
    }
}

/// The namespaces of a container, except the network namespace, which `LaunchSpec::network`
/// controls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// The pid namespace; also guarantees that no process outlives the command.
    pub pid: bool,
    /// The mount namespace; with `pid` it has a separate `/proc`.
    pub mount: bool,
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
    /// The cgroup namespace.
    pub cgroup: bool,
}

impl Namespaces {
    /// All five namespaces.
    pub const ALL: Self = Self {
        pid: true,
        mount: true,
        ipc: true,
        uts: true,
        cgroup: true,
    };
    /// No namespace: everything is the host's.
    pub const NONE: Self = Self {
        pid: false,
        mount: false,
        ipc: false,
        uts: false,
        cgroup: false,
    };

    /// Returns the flags for `clone3`. The cgroup namespace is not among them: its root is the
    /// group of its creator, so the container's first process creates it once it is in its group.
    pub(crate) fn clone_flags(self, user: bool) -> i32 {
        let wanted = [
            (self.pid, CloneFlags::CLONE_NEWPID),
            (self.mount, CloneFlags::CLONE_NEWNS),
            (self.ipc, CloneFlags::CLONE_NEWIPC),
            (self.uts, CloneFlags::CLONE_NEWUTS),
            (user, CloneFlags::CLONE_NEWUSER),
        ];
        let flags = wanted.into_iter().filter(|(wanted, _)| *wanted);
        flags
            .map(|(_, flag)| flag.bits())
            .fold(0, |all, flag| all | flag)
    }
}
