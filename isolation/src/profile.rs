//! The default profile: what keeps a command from the host, and what a task may be let off.

use serde::{Deserialize, Serialize};

use crate::view::View;

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
    /// containers of a host may have the same at a time.
    pub first_host_id: u32,
    /// What it sees of the host's files.
    pub view: View,
    /// Opt-out: any system call, subject to the kernel's own rules. For debuggers and other machines' code.
    pub all_system_calls: bool,
}
