//! The default profile: the isolation of a command from its host, and its security options.

use serde::{Deserialize, Serialize};

use super::capabilities::Capabilities;
use super::mounts::MountSpec;

/// The number of a container's users: its user n is the host's `first_host_id + n`.
pub const CONTAINER_IDS: u32 = 65_536;
/// The first host id for containers' users: lower ids belong to people, services and systemd's
/// dynamic users.
pub const FIRST_HOST_ID: u32 = 0x0008_0000;
/// The end of the host ids for containers' users (exclusive), where systemd's range for containers
/// ends as well.
pub const END_HOST_ID: u32 = 0x7000_0000;
/// The default user and group of a command inside: `nobody`.
pub const COMMAND_ID: u32 = 65_534;

/// The confinement of one container in addition to its namespaces. With none of it, a command has
/// the rights that it would have outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolationProfile {
    /// The host id of its user 0; a multiple of [`CONTAINER_IDS`] from [`FIRST_HOST_ID`] to below
    /// [`END_HOST_ID`]. No two containers of a host may have the same at a time, unless they share
    /// files.
    pub first_host_id: u32,
    /// The part of the host's files that it sees.
    pub view: MountSpec,
    /// The isolation layers; each is enabled unless an operator allows tasks to disable it.
    #[serde(rename = "walls")]
    pub isolation_layers: IsolationLayers,
}

/// The isolation layers of a profile. They overlap: an attack that breaks one layer still meets the
/// next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolationLayers {
    /// The capabilities of its user namespace that it keeps, for every user. Without any, all sets
    /// are empty and stay so.
    pub capabilities: Capabilities,
    /// Set-user-id files and file capabilities have no effect (`no_new_privs`). If disabled: in an
    /// image they work within the container, as far as it keeps capabilities.
    pub privileges: bool,
    /// Landlock: it writes only where allowed, and reaches no socket or process outside.
    pub landlock: bool,
    /// Seccomp: only the listed system calls. If disabled: all, subject to the kernel's own rules.
    pub system_calls: bool,
    /// Files about the host in `/proc` are masked, and kernel settings are read-only.
    pub masks: bool,
    /// It cannot create nested user namespaces.
    pub user_namespaces: bool,
}

impl IsolationLayers {
    /// All layers.
    pub const ALL: Self = Self {
        capabilities: Capabilities::NONE,
        privileges: true,
        landlock: true,
        system_calls: true,
        masks: true,
        user_namespaces: true,
    };

    /// Whether a process inside may become another user of the container, including root.
    pub fn allows_user_change(self) -> bool {
        !self.capabilities.is_empty() || !self.privileges
    }
}
