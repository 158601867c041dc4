//! Walls that tests take away one by one, to see that what each is said to hold gets through without it.
//!
//! As with [`crate::crash_points`], a launcher is told by a call of the test program that it is part of, never from outside, and
//! what it makes by copying is told, too: no flag, variable, message or field of a request leads here. In builds without
//! debug assertions, as all releases are, every wall stands ([`IS_ON`] is constant). What a request can name as data, as
//! [`crate::profile::Walls`], resource limits and its user, tests leave out there.

use std::fs;
use std::io;
use std::sync::OnceLock;

use rustix::mount::MountAttrFlags;

use crate::capabilities::Capabilities;
use crate::spec::Spec;

/// Whether walls can be taken away in this build.
pub const IS_ON: bool = cfg!(debug_assertions);

/// What stands between a command and its host, besides what a launch request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wall {
    /// Its users are nobody's on the host: the user namespace.
    Users,
    /// The process numbers of others: the pid namespace.
    Processes,
    /// Queues and memory of others: the ipc namespace.
    Queues,
    /// A host name of its own: the uts namespace.
    HostName,
    /// Its group is the root of all that it sees: the cgroup namespace.
    Groups,
    /// It has no capability of its user namespace.
    Capabilities,
    /// The setting of its user namespace that allows no further one.
    Nesting,
    /// What is not its own to change is mounted read-only.
    ReadOnly,
    /// No programs in scratch places, nor in `/dev` and `/proc`.
    NoPrograms,
    /// Nodes of devices mean nothing.
    NoDevices,
    /// Of the host's files only its programs are shown.
    Files,
    /// The host's root is gone, not only out of sight.
    Root,
    /// Nothing of its makers' is open in it.
    Descriptors,
    /// Nobody looks into its init.
    Init,
    /// The program in the kernel that knows its devices.
    Devices,
    /// The programs in the kernel that know its ports.
    Ports,
}

/// All of them.
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

/// Set once, before there is anything to hold.
static BREACHED: OnceLock<Vec<Wall>> = OnceLock::new();

/// Takes walls away from all that this process and its copies will make.
///
/// # Errors
/// If this build cannot do it, or it was done already.
pub fn take_away(walls: Vec<Wall>) -> io::Result<()> {
    if !IS_ON {
        return Err(io::Error::other("in this build every wall stands"));
    }
    let set = BREACHED.set(walls);
    set.map_err(|_| io::Error::other("this process was told already which walls are gone"))
}

/// Whether a wall is to be put up.
#[inline]
pub(crate) fn stands(wall: Wall) -> bool {
    let breached = if IS_ON { BREACHED.get() } else { None };
    breached.is_none_or(|breached| !breached.contains(&wall))
}

/// The namespaces that a checked request is left with: it could not have asked for fewer.
pub(crate) fn apply(spec: &mut Spec) {
    let namespaces = &mut spec.namespaces;
    namespaces.pid &= stands(Wall::Processes);
    namespaces.ipc &= stands(Wall::Queues);
    namespaces.uts &= stands(Wall::HostName);
    namespaces.cgroup &= stands(Wall::Groups);
}

/// The attributes of mounts that stand.
pub(crate) fn standing(attributes: MountAttrFlags) -> MountAttrFlags {
    let each = [
        (Wall::ReadOnly, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (Wall::NoPrograms, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (Wall::NoDevices, MountAttrFlags::MOUNT_ATTR_NODEV),
    ];
    let gone = each.into_iter().filter(|(wall, _)| !stands(*wall));
    gone.fold(attributes, |left, (_, gone)| left.difference(gone))
}

/// The capabilities that a command keeps, as the kernel has them: all of this process, where they are not to be taken.
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
        // Two that no other unit test of this program meets.
        take_away(vec![Wall::NoDevices, Wall::Queues]).unwrap();
        assert!(!stands(Wall::Queues) && stands(Wall::Users));
        assert_eq!(standing(all), MountAttrFlags::MOUNT_ATTR_RDONLY);
        assert!(take_away(Vec::new()).is_err());
    }
}
