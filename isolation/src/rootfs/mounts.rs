//! Mounts: the file system that a command sees. It holds the host's programs, read-only, and little
//! else.
//!
//! ```text
//! /                 a small separate file system, read-only
//! ├── bin etc lib lib64 opt sbin usr     the host's, read-only (links stay links)
//! ├── dev           null zero full random urandom tty, pts, shm, mqueue, fd, stdin, stdout, stderr
//! ├── proc          of the container's pid namespace; files about the host are masked
//! ├── sys           processors and memory nodes, and the container's cgroup; read-only
//! ├── sandbox       the working directory
//! ├── group         the directory that it shares with its task group, if it has one
//! ├── tmp           private, removed with the container
//! └── ...           host paths that the operator allows, at their paths, and volumes at theirs
//! ```
//! There are three steps. The launcher creates what all containers share (`template`). The
//! supervisor, which sees the whole host, opens the sandbox and each host path once and creates
//! unattached mounts of them (`PreparedMounts`). Init has root only in the container and starts in
//! an empty root. It attaches these mounts and the rest (`enter`), and looks up no path that a
//! container could have created.

mod change_root;
mod devices;
mod etc_files;
mod host_paths;
mod proc;
mod secrets;
mod template;
mod userns_limit;
mod volumes;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use argosy_host::sys;
use rustix::fs::CWD;
use rustix::mount::MountAttrFlags;
use rustix::process::chdir;

use crate::rootfs::image::RootMounts;
use crate::rootfs::mount_calls::{
    DEFAULT_ATTRIBUTES, MountError, attach, attach_in, clone_mount, create_dir, create_file,
    file_system, is_dir, mount_error, no_mount_point, restrict, restrict_one, writable_memory,
};
use crate::spec::GeneratedFile;
use crate::spec::mounts::{MountSpec, SANDBOX, SHARED};
use crate::spec::profile::{IsolationLayers, IsolationProfile};
use crate::testing::disable_layer::layer_disabled;
use argosy_host::crash_point;
pub(crate) use change_root::enter_empty_root;
use change_root::{enter_root, hide_base};
pub(crate) use devices::DeviceDirectory;
use devices::attach_private;
use etc_files::mount_generated_files;
use proc::make_proc;
pub use secrets::SecretError;
use template::attach_programs;
pub(crate) use template::{ClonedMounts, MountTemplate};
pub(crate) use volumes::PendingChown;

/// The host directories that a command sees. Homes, `/var`, `/run`, `/srv` and `/mnt` are not among
/// them: they hold data, not programs.
const HOST_DIRS: [&str; 8] = ["bin", "etc", "lib", "lib32", "lib64", "opt", "sbin", "usr"];
/// Some of the hidden directories, which are shown only where tests disable that layer.
const HOST_DATA: [&str; 3] = ["root", "run", "var"];
const SYSTEM_DATA: [&str; 1] = ["firmware"];
/// The directories of `/sys` from which libraries read the number of processors.
const SYSTEM_DIRS: [&str; 2] = ["devices/system/cpu", "devices/system/node"];

/// A mount of a host path that is not attached yet.
struct HostPathMount {
    tree: OwnedFd,
    /// The target path.
    to: PathBuf,
    /// Whether its files belong to host users that are mapped to the container's.
    is_mapped: bool,
}

/// Mounts of host paths that are not attached yet.
pub(crate) struct PreparedMounts {
    /// The container's directories, then host paths, outer ones first.
    mounts: Vec<HostPathMount>,
    /// `None`: the root is made of the host's programs.
    root: Option<RootMounts>,
    /// The file system with its secrets, if it has any.
    secrets: Option<OwnedFd>,
    /// Devices in addition to the usual ones.
    pub(crate) devices: Option<DeviceDirectory>,
}

impl PreparedMounts {
    /// Opens the sandbox, the shared directory, host paths and the parts of the root, and creates
    /// nodes of `devices`, as host root. `secrets` is the file that came with the launch.
    pub(crate) fn open(
        profile: &IsolationProfile,
        sandbox: &Path,
        shared: Option<&Path>,
        devices: &[PathBuf],
        secrets: Option<&OwnedFd>,
    ) -> Result<Self, MountError> {
        let view = &profile.view;
        let own = [(sandbox, SANDBOX)].into_iter();
        let own = own.chain(shared.map(|directory| (directory, SHARED)));
        let own = own.map(|(from, to)| {
            let tree = clone_mount(CWD, from)?;
            restrict(tree.as_fd(), DEFAULT_ATTRIBUTES)?;
            Ok(HostPathMount {
                tree,
                to: to.into(),
                is_mapped: false,
            })
        });
        let mut paths: Vec<_> = view.host_paths.iter().collect();
        paths.sort_by(|one, other| one.to.cmp(&other.to));
        let places = own.chain(paths.into_iter().map(host_paths::clone_host_path));
        let places = places.collect::<Result<_, MountError>>()?;
        let vault = volumes::open_secrets(&view.volumes, secrets, profile.first_host_id)?;
        crash_point!("start.secrets-locked");
        Ok(Self {
            mounts: places,
            secrets: vault,
            root: RootMounts::open(&view.root, profile.first_host_id, profile.isolation_layers)?,
            devices: DeviceDirectory::make(devices, profile.first_host_id)?,
        })
    }

    /// Whether it has mounts whose owners must be mapped.
    pub(crate) fn has_owners(&self) -> bool {
        self.mounts.iter().any(|place| place.is_mapped) || self.root.is_some()
    }

    /// Maps the owners on host paths and in an image, so that the container's users have the same
    /// ids on disk. Called before init attaches the mounts.
    pub(crate) fn map_owners(&self, users: BorrowedFd<'_>) -> Result<(), MountError> {
        let mut mapped = self.mounts.iter().filter(|place| place.is_mapped);
        mapped.try_for_each(|place| {
            let what = format!(
                "map users to the file system of {}: it must support mounts with mapped owners, as ext4, xfs, btrfs do",
                place.to.display()
            );
            sys::map_owners(place.tree.as_fd(), users).map_err(mount_error(what))
        })?;
        self.root
            .as_ref()
            .map_or(Ok(()), |root| root.map_owners(users))
    }
}

/// Sets up the mounts and makes them the root, with the sandbox as working directory. For init, as
/// root of its user namespace, with separate namespaces of all kinds except network. Returns the
/// file that the command's user must be given.
pub(crate) fn enter(
    view: &MountSpec,
    parts: &PreparedMounts,
    clones: &ClonedMounts,
    files: &[GeneratedFile],
    layers: IsolationLayers,
    cgroups: bool,
) -> Result<Vec<PendingChown>, MountError> {
    let scaffold = file_system(
        "tmpfs",
        &[("mode", "755"), ("size", "64k")],
        DEFAULT_ATTRIBUTES,
    )?;
    // The root is mounted over that of the base. The parts of an image's root must be below it,
    // where they are covered later.
    let covered = match (&parts.root, layer_disabled!(Root)) {
        (None, false) => "/",
        (Some(_), false) => "/proc",
        (_, true) => "/tmp",
    };
    attach(scaffold.as_fd(), CWD, covered)?;
    let own = match &parts.root {
        None => None,
        Some(own) => Some(own.assemble(scaffold.as_fd())?),
    };
    let root = own.as_ref().unwrap_or(&scaffold).as_fd();
    if own.is_some() {
        attach(root, CWD, "/")?;
    }
    attach_programs(root, &clones.programs)?;
    let own_devices = parts.devices.as_ref().map(|own| &own.tree);
    let devices = own_devices.or(clones.devices.as_ref());
    let devices = devices.expect("a container has its own devices, or the usual ones");
    let devices = devices.as_fd();
    attach_in(devices, root, Path::new("dev"))?;
    make_proc(root, devices, layers)?;
    attach_private(devices, view)?;
    mount_system(root, clones, cgroups)?;
    mount_generated_files(root, files)?;
    let (secrets, mut pending_chowns) =
        volumes::secret_mounts(root, parts.secrets.as_ref(), &view.volumes)?;
    crash_point!("init.secrets-unlocked");
    scratch(root, "tmp", view.tmp_bytes)?;
    for HostPathMount { tree, to, .. } in &parts.mounts {
        let path = to.strip_prefix("/").expect("it was checked to be absolute");
        if to == Path::new(SANDBOX) {
            attach_in(tree.as_fd(), root, path)?;
            continue;
        }
        let made = match is_dir(tree.as_fd())? {
            true => create_dir(root, path),
            false => create_file(root, path),
        };
        let place = made.map_err(|error| no_mount_point("host path", to, error))?;
        attach(tree.as_fd(), place.as_fd(), "")?;
    }
    pending_chowns.extend(volumes::attach_volumes(root, &view.volumes, secrets)?);
    crash_point!("init.volumes-shown");
    crash_point!("init.root-laid");
    if own.is_none() {
        // The container may change an image's root.
        restrict_one(root, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    }
    hide_base(root)?;
    enter_root(root)?;
    crash_point!("init.host-left");
    chdir(SANDBOX).map_err(mount_error("enter the sandbox"))?;
    Ok(pending_chowns)
}

fn mount_system(
    root: BorrowedFd<'_>,
    clones: &ClonedMounts,
    cgroups: bool,
) -> Result<(), MountError> {
    let system = clones.system.as_fd();
    attach_in(system, root, Path::new("sys"))?;
    if cgroups {
        let attributes = DEFAULT_ATTRIBUTES
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_RDONLY;
        let groups = file_system("cgroup2", &[], attributes)?;
        attach(groups.as_fd(), system, template::GROUPS)?;
    }
    Ok(())
}

/// Creates and attaches a small writable file system for all users of the container.
fn scratch(parent: BorrowedFd<'_>, name: &str, bytes: u64) -> Result<(), MountError> {
    attach_in(writable_memory(bytes)?.as_fd(), parent, Path::new(name))
}
