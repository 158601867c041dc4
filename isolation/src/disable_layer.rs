//! Disabling isolation layers one by one in tests, to prove that each layer stops what it is meant
//! to stop.
//!
//! As with [`crate::crash_points`], only a call of the test program itself changes a launcher and
//! the processes that it creates by copying: no flag, variable, message or request field does. In
//! builds without debug assertions, such as all releases, every layer is enabled ([`IS_ON`] is
//! constant). Layers that a request controls as data ([`crate::profile::Walls`], resource limits
//! and its user) are left out by the tests in the request.

use std::fs;
use std::io;
use std::sync::OnceLock;

use rustix::mount::MountAttrFlags;

use crate::capabilities::Capabilities;
use crate::spec::Spec;

/// Whether this build can disable layers.
pub const IS_ON: bool = cfg!(debug_assertions);

/// An isolation layer between a command and its host that a launch request cannot turn off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wall {
    /// The user namespace: the container's users have no rights on the host.
    Users,
    /// The pid namespace: hides the process ids of other processes.
    Processes,
    /// The ipc namespace: hides the queues and shared memory of other processes.
    Queues,
    /// The uts namespace: a separate host name.
    HostName,
    /// The cgroup namespace: the container's cgroup is the root of what it sees.
    Groups,
    /// The command has no capability of its user namespace.
    Capabilities,
    /// The setting of its user namespace that allows no nested one.
    Nesting,
    /// Everything that the container may not change is mounted read-only.
    ReadOnly,
    /// `noexec` on scratch directories, `/dev` and `/proc`.
    NoPrograms,
    /// `nodev`: device nodes have no effect.
    NoDevices,
    /// Only the programs of the host's file system are visible.
    Files,
    /// The host's root is unmounted, not only hidden.
    Root,
    /// No descriptor of the runtime is open in the container.
    Descriptors,
    /// The memory of init is not readable.
    Init,
    /// The eBPF program that restricts devices.
    Devices,
    /// The eBPF programs that restrict ports.
    Ports,
}

pub const WALLS: &[Wall] = &[
    Wall::Users,
    Wall::Processes,
    Wall::Queues,
    Wall::HostName,
    Wall::Groups,
    Wall::Capabilities,
    Wall::Nesting,
    Wall::ReadOnly,
    Wall::NoPrograms,
    Wall::NoDevices,
    Wall::Files,
    Wall::Root,
    Wall::Descriptors,
    Wall::Init,
    Wall::Devices,
    Wall::Ports,
];

/// Set once, before the first layer is applied.
static BREACHED: OnceLock<Vec<Wall>> = OnceLock::new();

/// Disables layers for everything that this process and its copies create.
///
/// # Errors
/// If this build cannot disable layers, or the set was already chosen.
pub fn take_away(walls: Vec<Wall>) -> io::Result<()> {
    if !IS_ON {
        return Err(io::Error::other("this build cannot disable layers"));
    }
    let set = BREACHED.set(walls);
    set.map_err(|_| io::Error::other("this process has already disabled layers"))
}

/// Whether a layer is enabled.
#[inline]
pub(crate) fn stands(wall: Wall) -> bool {
    let breached = if IS_ON { BREACHED.get() } else { None };
    breached.is_none_or(|breached| !breached.contains(&wall))
}

/// Removes the namespaces of disabled layers from a validated request, which could not have
/// requested fewer.
pub(crate) fn apply(spec: &mut Spec) {
    let namespaces = &mut spec.namespaces;
    namespaces.pid &= stands(Wall::Processes);
    namespaces.ipc &= stands(Wall::Queues);
    namespaces.uts &= stands(Wall::HostName);
    namespaces.cgroup &= stands(Wall::Groups);
}

/// Returns the mount attributes of the enabled layers.
pub(crate) fn standing(attributes: MountAttrFlags) -> MountAttrFlags {
    let each = [
        (Wall::ReadOnly, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (Wall::NoPrograms, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (Wall::NoDevices, MountAttrFlags::MOUNT_ATTR_NODEV),
    ];
    let gone = each.into_iter().filter(|(wall, _)| !stands(*wall));
    gone.fold(attributes, |left, (_, gone)| left.difference(gone))
}

/// Returns the kernel mask of the capabilities that a command keeps: all capabilities of this
/// process if the layer is disabled.
pub(crate) fn kept(allowed: Capabilities) -> u64 {
    if stands(Wall::Capabilities) {
        return allowed.mask();
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    held.map_or(0, |set| u64::from_str_radix(set.trim(), 16).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wall_stands_until_a_test_takes_it_away_and_that_only_once() {
        assert!(WALLS.iter().all(|wall| stands(*wall)));
        let all = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
        assert_eq!(standing(all), all);
        // Two layers that no other unit test of this program uses.
        take_away(vec![Wall::NoDevices, Wall::Queues]).unwrap();
        assert!(!stands(Wall::Queues) && stands(Wall::Users));
        assert_eq!(standing(all), MountAttrFlags::MOUNT_ATTR_RDONLY);
        assert!(take_away(Vec::new()).is_err());
    }
}
