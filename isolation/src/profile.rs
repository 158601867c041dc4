//! The default profile: what keeps a command from the host, and what a task may be let off.

use serde::{Deserialize, Serialize};

use crate::capabilities::Capabilities;
use crate::mounts::View;

/// How many users a container has: its user n is the host's `first_host_id + n`.
pub const CONTAINER_IDS: u32 = 65_536;
/// The first host user that may stand for one of a container: below are people, services and systemd's dynamic users.
pub const FIRST_HOST_ID: u32 = 0x0008_0000;
/// The first host user after the last that may: where systemd's range for containers ends, too.
pub const END_HOST_ID: u32 = 0x7000_0000;
/// The user and group that a command is inside unless it names another: nobody.
pub const COMMAND_ID: u32 = 65_534;

/// The confinement of one container beyond its namespaces. Without any of it a command is what it would be outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Its user 0 on the host; a multiple of [`CONTAINER_IDS`] from [`FIRST_HOST_ID`] to below [`END_HOST_ID`]. No two
    /// containers of a host may have the same at a time, unless they are to share files.
    pub first_host_id: u32,
    /// What it sees of the host's files.
    pub view: View,
    /// What stands between it and the host; each is on unless an operator lets tasks go without it.
    pub walls: Walls,
}

/// The walls of a profile, one behind the other: what breaks through one still meets the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walls {
    /// Capabilities of its own user namespace that it keeps, whoever it is there. Without any all sets are empty, and stay
    /// so.
    pub capabilities: Capabilities,
    /// Set-user-id files and file capabilities mean nothing (`no_new_privs`). Without: in an image they mean within the
    /// container what they say, as far as it keeps capabilities.
    pub privileges: bool,
    /// Landlock: it writes where it may, and reaches no socket or process outside.
    pub landlock: bool,
    /// Only the listed system calls. Without: all, subject to the kernel's own rules.
    pub system_calls: bool,
    /// What `/proc` tells of the host is masked, and its settings are read-only.
    pub masks: bool,
    /// It makes no user namespaces of its own.
    pub user_namespaces: bool,
}

impl Walls {
    /// All of them.
    pub const ALL: Self = Self {
        capabilities: Capabilities::NONE,
        privileges: true,
        landlock: true,
        system_calls: true,
        masks: true,
        user_namespaces: true,
    };

    /// Whether somebody inside may become another user of the container, its root among them.
    pub fn let_change_users(self) -> bool {
        !self.capabilities.is_empty() || !self.privileges
    }
}
