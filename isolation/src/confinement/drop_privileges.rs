//! The privileges that a process drops permanently before it executes the command.
//!
//! Init enters the Landlock domain, so that all commands of a container share it: commands in two
//! domains could neither signal nor see each other. Each command's process applies the rest. That
//! process may share init's memory, so it only makes system calls.

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use argosy_host::sys;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};
use nix::errno::Errno;
use nix::sys::prctl::set_no_new_privs;

use crate::confinement::seccomp::SeccompFilter;
use crate::spec::capabilities::Capabilities;
use crate::spec::mounts::{SANDBOX, SHARED};
use crate::spec::profile::{IsolationLayers, IsolationProfile};
use crate::spec::{Network, RootFs};
use crate::testing::disable_layer::layer_disabled;

/// The newest Landlock version whose rights are used; an older kernel enforces the rights that it
/// knows.
const LANDLOCK: ABI = ABI::V6;
/// The paths that a command may write, in addition to its sandbox, host paths and volumes.
const WRITABLE: [&str; 4] = ["/tmp", "/dev/shm", "/dev/mqueue", SHARED];

/// The isolation layers that a command's process applies.
pub(crate) struct Confinement {
    layers: IsolationLayers,
    /// The kernel mask of the capabilities of its user namespace that the command keeps.
    capabilities: u64,
    filter: Option<SeccompFilter>,
}

/// The reason why a layer cannot be applied, as text.
type LayerError = String;

/// Closes every descriptor above the standard streams, except `kept`.
pub(crate) fn close_all_but(kept: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    layer_disabled!(Descriptors => return Ok(()));
    sys::close_all_but_these(kept.as_slice())
}

/// Restricts this process and its descendants with Landlock. Init calls it after its mounts are in
/// place.
///
/// The domain applies to init as well, whose privileges outside it were none. That commands share
/// init's domain gives them no power over it: the kernel protects process 1 from their signals, and
/// its memory is not dumpable.
pub(crate) fn enter_domain(
    profile: &IsolationProfile,
    network: &Network,
) -> Result<(), LayerError> {
    if !profile.isolation_layers.landlock {
        return Ok(());
    }
    let rules =
        rules(profile, network).map_err(|error| format!("cannot prepare Landlock: {error}"))?;
    let restricted = rules
        .no_new_privs(profile.isolation_layers.privileges)
        .restrict_self();
    restricted
        .map(drop)
        .map_err(|error| format!("cannot enforce Landlock: {error}"))
}

impl Confinement {
    pub(crate) fn new(isolation_layers: IsolationLayers, filter: &SeccompFilter) -> Self {
        Self {
            layers: isolation_layers,
            capabilities: kept_capabilities(isolation_layers.capabilities),
            filter: isolation_layers
                .system_calls
                .then(|| filter.widened(isolation_layers)),
        }
    }

    /// Must precede the change of user: only root of the namespace can empty the bounding set.
    pub(crate) fn drop_capabilities(&self) -> Result<(), LayerError> {
        if !self.layers.privileges {
            // A process that may gain privileges later can install a filter only while it has some.
            self.install_filter()?;
        }
        let forgone = if self.capabilities != 0 || !self.layers.privileges {
            sys::bound_capabilities(self.capabilities)
                .and_then(|()| sys::keep_capabilities_over_user_change())
        } else {
            sys::drop_capabilities()
        };
        forgone.map_err(|errno| format!("cannot forgo capabilities: {}", errno.desc()))
    }

    /// Must follow the change to this user.
    pub(crate) fn apply_layers(&self, uid: u32) -> Result<(), LayerError> {
        let kept = self.capabilities;
        let dropped = if uid == 0 {
            // Programs of root get root's capabilities. Nothing is inheritable: files could not
            // pass it on unasked.
            sys::set_capabilities(kept, 0)
        } else {
            sys::set_capabilities(kept, kept).and_then(|()| sys::raise_ambient(kept))
        };
        dropped.map_err(|errno| format!("cannot drop capabilities: {}", errno.desc()))?;
        if self.layers.privileges {
            set_no_new_privs()
                .map_err(|errno| format!("cannot forbid new privileges: {}", errno.desc()))?;
        }
        Ok(())
    }

    /// The last step: the filter forbids most of the earlier ones.
    pub(crate) fn filter_system_calls(&self) -> Result<(), LayerError> {
        if self.layers.privileges {
            self.install_filter()
        } else {
            Ok(())
        }
    }

    fn install_filter(&self) -> Result<(), LayerError> {
        let put_on = self.filter.as_ref().map_or(Ok(()), SeccompFilter::install);
        put_on.map_err(|errno| format!("cannot filter system calls: {}", errno.desc()))
    }
}

/// Returns the kernel mask of the capabilities that a command keeps.
fn kept_capabilities(allowed: Capabilities) -> u64 {
    layer_disabled!(Capabilities, allowed.mask(), own_capabilities())
}

/// Implements the disabled layer `Capabilities`: returns all capabilities of this process.
fn own_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    held.map_or(0, |set| u64::from_str_radix(set.trim(), 16).unwrap_or(0))
}

/// Restricts file access to one directory tree, for a process that has its input open already.
pub(crate) fn restrict_to_domain(directory: BorrowedFd<'_>) -> Result<(), landlock::RulesetError> {
    let all = AccessFs::from_all(LANDLOCK);
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?;
    rules
        .add_rule(PathBeneath::new(directory, all))?
        .restrict_self()
        .map(drop)
}

/// Allows reading of these files and directories only. No other file can be opened by name, no port
/// bound, and no signal sent outside.
pub(crate) fn restrict_to_reading(places: &[PathBuf]) -> Result<(), landlock::RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?;
    for place in places {
        let Ok(opened) = PathFd::new(place) else {
            // A path that does not exist needs no right.
            continue;
        };
        let access = match place.is_dir() {
            true => read,
            false => AccessFs::ReadFile.into(),
        };
        rules = rules.add_rule(PathBeneath::new(opened, access))?;
    }
    rules.restrict_self().map(drop)
}

/// Whether this kernel's Landlock can restrict which TCP ports a command binds.
pub(crate) fn supports_ports() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessNet::BindTcp)
        .is_ok()
}

/// Builds a second layer behind the mounts. Everything may be read and executed, and little
/// written. Signals and abstract sockets are limited to the container's processes. Of the host's
/// ports only the container's may be bound.
fn rules(
    profile: &IsolationProfile,
    network: &Network,
) -> Result<RulesetCreated, landlock::RulesetError> {
    let all = AccessFs::from_all(LANDLOCK);
    let read = AccessFs::from_read(LANDLOCK);
    let use_files = read | AccessFs::WriteFile | AccessFs::IoctlDev;
    let ports = match network {
        Network::Host { ports } => ports.as_deref(),
        // In a separate network namespace all ports belong to the container.
        Network::None | Network::Joined => None,
    };
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?;
    if ports.is_some() {
        rules = rules.handle_access(AccessNet::BindTcp)?;
    }
    let mut rules = rules
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?;
    for port in ports.unwrap_or_default() {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
    }
    let writable = WRITABLE.into_iter().map(std::path::Path::new);
    let sandbox = std::iter::once(std::path::Path::new(SANDBOX));
    let host_paths = profile.view.host_paths.iter();
    let host_paths = host_paths.filter(|path| !path.read_only);
    let volumes = profile.view.volumes.iter();
    // A read-only volume, such as a secret, is protected by its mount as well.
    let volumes = volumes.filter(|volume| volume.is_writable());
    let whole = writable
        .chain(sandbox)
        .chain(host_paths.map(|path| path.to.as_path()))
        .chain(volumes.map(|volume| volume.path.as_path()))
        .map(|path| (path, all));
    let used = ["/dev", "/proc"]
        .into_iter()
        .map(|path| (std::path::Path::new(path), use_files));
    // A container may change a separate root, but not that of the host's programs.
    let of_root = match &profile.view.root {
        RootFs::Host => read,
        RootFs::Image(_) | RootFs::Directory(_) => all,
    };
    let seen = [(std::path::Path::new("/"), of_root)];
    for (path, access) in whole.chain(used).chain(seen) {
        let Ok(place) = PathFd::new(path) else {
            // A path that does not exist needs no right.
            continue;
        };
        let is_directory = path.is_dir();
        let access = if is_directory {
            access
        } else {
            access & AccessFs::from_file(LANDLOCK)
        };
        rules = rules.add_rule(PathBeneath::new(place, access))?;
    }
    Ok(rules)
}
