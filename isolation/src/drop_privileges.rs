//! What a process gives up, for good, before it becomes the command.
//!
//! Landlock is put on by init, so that all commands of a container are in one domain: those of two could neither signal
//! nor see each other. The rest is put on by each command's process, which may share init's memory and only makes
//! system calls.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};
use nix::sys::prctl::set_no_new_privs;

use crate::disable_layer;
use crate::image::Root;
use crate::mounts::{SANDBOX, SHARED};
use crate::network::Network;
use crate::profile::{Profile, Walls};
use crate::seccomp::Filter;
use crate::sys;

/// The newest version of Landlock whose rights are used; an older kernel enforces what it knows of them.
const LANDLOCK: ABI = ABI::V6;
/// Where a command may write besides its sandbox, host paths and volumes.
const WRITABLE: [&str; 4] = ["/tmp", "/dev/shm", "/dev/mqueue", SHARED];

/// Walls to be put up around one command.
pub(crate) struct Confinement {
    walls: Walls,
    /// Capabilities of its user namespace that the command keeps, as the kernel has them.
    kept: u64,
    filter: Option<Filter>,
}

/// Why a wall cannot be put up, in words.
type Refusal = String;

/// Shuts this process, and all that it will make, in with Landlock: to be called inside the view, by init.
///
/// What init does afterwards stays within it, and its privileges were none outside. That commands share its domain gives
/// them no power over it: the kernel keeps process 1 from their signals, and that it is not dumpable from their sight.
pub(crate) fn enter_domain(profile: &Profile, network: &Network) -> Result<(), Refusal> {
    if !profile.walls.landlock {
        return Ok(());
    }
    let rules =
        rules(profile, network).map_err(|error| format!("cannot prepare Landlock: {error}"))?;
    let restricted = rules.no_new_privs(profile.walls.privileges).restrict_self();
    restricted
        .map(drop)
        .map_err(|error| format!("cannot enforce Landlock: {error}"))
}

impl Confinement {
    pub(crate) fn of(walls: Walls, filter: &Filter) -> Self {
        Self {
            walls,
            kept: disable_layer::kept(walls.capabilities),
            filter: walls.system_calls.then(|| filter.widened(walls)),
        }
    }

    /// Before the user is changed: only root of the namespace can empty the bounding set.
    pub(crate) fn forgo_capabilities(&self) -> Result<(), Refusal> {
        if !self.walls.privileges {
            // Who may gain privileges later may put on a filter only while it has some.
            self.put_on_filter()?;
        }
        let forgone = if self.kept != 0 || !self.walls.privileges {
            sys::bound_capabilities(self.kept)
                .and_then(|()| sys::keep_capabilities_over_user_change())
        } else {
            sys::forgo_capabilities()
        };
        forgone.map_err(|errno| format!("cannot forgo capabilities: {}", errno.desc()))
    }

    /// After the user was changed to this one.
    pub(crate) fn put_up_walls(&self, uid: u32) -> Result<(), Refusal> {
        let kept = self.kept;
        let dropped = if uid == 0 {
            // Root's programs have what root has. Nothing is inheritable: files could not pass it on unasked.
            sys::set_capabilities(kept, 0)
        } else {
            sys::set_capabilities(kept, kept).and_then(|()| sys::raise_ambient(kept))
        };
        dropped.map_err(|errno| format!("cannot drop capabilities: {}", errno.desc()))?;
        if self.walls.privileges {
            set_no_new_privs()
                .map_err(|errno| format!("cannot forbid new privileges: {}", errno.desc()))?;
        }
        Ok(())
    }

    /// Last of all: most of what was done before is forbidden by it.
    pub(crate) fn filter_system_calls(&self) -> Result<(), Refusal> {
        if self.walls.privileges {
            self.put_on_filter()
        } else {
            Ok(())
        }
    }

    fn put_on_filter(&self) -> Result<(), Refusal> {
        let put_on = self.filter.as_ref().map_or(Ok(()), Filter::put_on);
        put_on.map_err(|errno| format!("cannot filter system calls: {}", errno.desc()))
    }
}

/// Files of one folder and below, and no other: for a process that has its work open already.
pub(crate) fn stay_below(folder: BorrowedFd<'_>) -> Result<(), landlock::RulesetError> {
    let all = AccessFs::from_all(LANDLOCK);
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?;
    rules
        .add_rule(PathBeneath::new(folder, all))?
        .restrict_self()
        .map(drop)
}

/// These files and folders may be read, and nothing else is opened by its name; no port is bound, no signal leaves.
pub(crate) fn only_read(places: &[PathBuf]) -> Result<(), landlock::RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?;
    for place in places {
        let Ok(opened) = PathFd::new(place) else {
            // What is not there needs no right.
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

/// Whether this kernel's Landlock can keep a command from binding TCP ports.
pub(crate) fn knows_ports() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessNet::BindTcp)
        .is_ok()
}

/// A second wall behind the mounts: everything may be read and executed, little be written; signals and abstract
/// sockets stay among the container's own processes; of the host's ports only its own are bound.
fn rules(profile: &Profile, network: &Network) -> Result<RulesetCreated, landlock::RulesetError> {
    let all = AccessFs::from_all(LANDLOCK);
    let read = AccessFs::from_read(LANDLOCK);
    let use_files = read | AccessFs::WriteFile | AccessFs::IoctlDev;
    let ports = match network {
        Network::Host { ports } => ports.as_deref(),
        // There all ports are its own.
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
    // What is read-only, as a secret is, is kept so by its mount, too.
    let volumes = volumes.filter(|volume| volume.is_writable());
    let whole = writable
        .chain(sandbox)
        .chain(host_paths.map(|path| path.to.as_path()))
        .chain(volumes.map(|volume| volume.path.as_path()))
        .map(|path| (path, all));
    let used = ["/dev", "/proc"]
        .into_iter()
        .map(|path| (std::path::Path::new(path), use_files));
    // A root of its own is the container's to change; that of the host's programs is not.
    let of_root = match &profile.view.root {
        Root::Host => read,
        Root::Image(_) | Root::Folder(_) => all,
    };
    let seen = [(std::path::Path::new("/"), of_root)];
    for (path, access) in whole.chain(used).chain(seen) {
        let Ok(place) = PathFd::new(path) else {
            // What is not there needs no right.
            continue;
        };
        let is_folder = path.is_dir();
        let access = if is_folder {
            access
        } else {
            access & AccessFs::from_file(LANDLOCK)
        };
        rules = rules.add_rule(PathBeneath::new(place, access))?;
    }
    Ok(rules)
}
