//! Test hook: disabling isolation layers one by one, to prove that each layer stops what it is
//! meant to stop.
//!
//! As with [`argosy_host::crash_points`], only a call of the test program itself changes a
//! launcher and the processes that it creates by copying: no flag, variable, message or request
//! field does. In builds without debug assertions, such as all releases, every layer is enabled
//! ([`IS_ON`] is constant). Layers that a request controls as data
//! ([`crate::spec::profile::IsolationLayers`], resource limits and its user) are left out by the
//! tests in the request.

use std::io;
use std::sync::OnceLock;

use rustix::mount::MountAttrFlags;

/// Whether this build can disable layers.
pub const IS_ON: bool = cfg!(debug_assertions);

/// An isolation layer between a command and its host that a launch request cannot turn off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MandatoryLayer {
    /// The user namespace: the container's users have no rights on the host.
    User,
    /// The pid namespace: hides the process ids of other processes.
    Pid,
    /// The ipc namespace: hides the queues and shared memory of other processes.
    Ipc,
    /// The uts namespace: a separate host name.
    Uts,
    /// The cgroup namespace: the container's cgroup is the root of what it sees.
    Cgroup,
    /// The command has no capability of its user namespace.
    Capabilities,
    /// The setting of its user namespace that allows no nested one.
    Nesting,
    /// Everything that the container may not change is mounted read-only.
    ReadOnly,
    /// `noexec` on scratch directories, `/dev` and `/proc`.
    Noexec,
    /// `nodev`: device nodes have no effect.
    Nodev,
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

pub const LAYERS: &[MandatoryLayer] = &[
    MandatoryLayer::User,
    MandatoryLayer::Pid,
    MandatoryLayer::Ipc,
    MandatoryLayer::Uts,
    MandatoryLayer::Cgroup,
    MandatoryLayer::Capabilities,
    MandatoryLayer::Nesting,
    MandatoryLayer::ReadOnly,
    MandatoryLayer::Noexec,
    MandatoryLayer::Nodev,
    MandatoryLayer::Files,
    MandatoryLayer::Root,
    MandatoryLayer::Descriptors,
    MandatoryLayer::Init,
    MandatoryLayer::Devices,
    MandatoryLayer::Ports,
];

/// Set once, before the first layer is applied.
static DISABLED: OnceLock<Vec<MandatoryLayer>> = OnceLock::new();

/// Disables layers for everything that this process and its copies create.
///
/// # Errors
/// If this build cannot disable layers, or the set was already chosen.
pub fn disable(layers: Vec<MandatoryLayer>) -> io::Result<()> {
    if !IS_ON {
        return Err(io::Error::other("this build cannot disable layers"));
    }
    let set = DISABLED.set(layers);
    set.map_err(|_| io::Error::other("this process has already disabled layers"))
}

/// Test hook: deviates where a test has disabled a layer, and only there.
///
/// - `layer_disabled!(Ipc)` is true if the layer is disabled.
/// - `layer_disabled!(Pid, usual, without)` is the value of one of the two expressions.
/// - `layer_disabled!(Root => return Ok(()))` is a statement for the disabled layer only.
///
/// In builds without debug assertions the first form is the constant `false`.
macro_rules! layer_disabled {
    ($layer:ident) => {
        $crate::testing::disable_layer::is_disabled(
            $crate::testing::disable_layer::MandatoryLayer::$layer,
        )
    };
    ($layer:ident, $usual:expr, $without:expr) => {
        if layer_disabled!($layer) {
            $without
        } else {
            $usual
        }
    };
    ($layer:ident => $without:expr) => {
        if layer_disabled!($layer) {
            $without;
        }
    };
}
pub(crate) use layer_disabled;

/// Returns whether a test has disabled a layer. Called by [`layer_disabled!`] only.
#[inline]
pub(crate) fn is_disabled(layer: MandatoryLayer) -> bool {
    let disabled = if IS_ON { DISABLED.get() } else { None };
    disabled.is_some_and(|disabled| disabled.contains(&layer))
}

/// Returns the mount attributes of the enabled layers.
pub(crate) fn enabled_attributes(attributes: MountAttrFlags) -> MountAttrFlags {
    let each = [
        (MandatoryLayer::ReadOnly, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (MandatoryLayer::Noexec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (MandatoryLayer::Nodev, MountAttrFlags::MOUNT_ATTR_NODEV),
    ];
    let disabled = each.into_iter().filter(|(layer, _)| is_disabled(*layer));
    disabled.fold(attributes, |left, (_, disabled)| left.difference(disabled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_is_enabled_and_can_be_disabled_once() {
        assert!(!LAYERS.iter().any(|layer| is_disabled(*layer)));
        let all = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
        assert_eq!(enabled_attributes(all), all);
        // Two layers that no other unit test of this program uses.
        disable(vec![MandatoryLayer::Nodev, MandatoryLayer::Ipc]).unwrap();
        assert!(layer_disabled!(Ipc) && !layer_disabled!(User));
        assert_eq!(enabled_attributes(all), MountAttrFlags::MOUNT_ATTR_RDONLY);
        assert!(disable(Vec::new()).is_err());
    }
}
