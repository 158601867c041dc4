//! What a command finds under `/`: the host's programs, read-only, and little else.
//!
//! ```text
//! /                 a small file system of its own, read-only
//! ├── bin etc lib lib64 opt sbin usr     the host's, read-only (links stay links)
//! ├── dev           null zero full random urandom tty, pts, shm, mqueue, fd, stdin, stdout, stderr
//! ├── proc          of its own process numbers; what tells of the host is masked
//! ├── sys           processors and memory nodes, and its own control group; read-only
//! ├── sandbox       its working directory
//! ├── group         the folder that it shares with other containers, if it has one
//! ├── tmp           its own, emptied with it
//! └── ...           host paths that the operator allows, at their own names, and volumes where they are asked for
//! ```
//! Three steps. The launcher makes what all containers share (`template`). The supervisor, who may see all of the host,
//! opens the sandbox and each host path once and takes a mount of it that is attached nowhere (`Parts`). Init, who is root
//! of nothing but the container and begins in an empty root, attaches them and the rest (`enter`): it looks up no path that a
//! container could have made.

mod change_root;
mod devices;
mod etc_files;
mod host_paths;
mod proc;
mod secrets;
mod template;
mod userns_limit;
mod volumes;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use rustix::process::chdir;

use crate::crash_points;
use crate::disable_layer::{self, Wall};
use crate::image::{Root, RootParts};
use crate::profile::{Profile, Walls};
use crate::spec::OwnFile;
use crate::sys;
pub(crate) use change_root::leave_for_nothing;
use change_root::{enter_root, hide_base};
pub(crate) use devices::OwnDevices;
use devices::show_own;
use etc_files::show_own_files;
pub use host_paths::{HostPath, Owners};
use proc::make_proc;
pub use secrets::{SECRET_BYTES, Secret, SecretError};
use template::show_programs;
pub(crate) use template::{Clones, Template};
pub(crate) use volumes::{Gift, check as check_volumes};
pub use volumes::{Volume, VolumeSource};

/// Where the sandbox is inside.
pub const SANDBOX: &str = "/sandbox";

/// Where the folder is that it shares with other containers, if it has one.
pub const SHARED: &str = "/group";

/// The host's folders that a command sees. Neither homes nor `/var`, `/run`, `/srv`, `/mnt`: data are not programs.
const HOST_FOLDERS: [&str; 8] = ["bin", "etc", "lib", "lib32", "lib64", "opt", "sbin", "usr"];
/// Some of what is not shown, but where tests take that wall away.
const HOST_DATA: [&str; 3] = ["root", "run", "var"];
const SYSTEM_DATA: [&str; 1] = ["firmware"];
/// Of `/sys` only what libraries ask for the number of processors.
const SYSTEM_FOLDERS: [&str; 2] = ["devices/system/cpu", "devices/system/node"];

/// For how many bytes of a scratch place it may have one more file.
const BYTES_A_FILE: u64 = 4_096;
/// How many files even the smallest may have.
const FEWEST_FILES: u64 = 1_024;

/// On everything: no set-user-id, no devices.
pub(crate) const TAME: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// What a container sees of the host beyond its programs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct View {
    /// What its root is.
    pub root: Root,
    /// What it sees of the host's files.
    pub host_paths: Vec<HostPath>,
    /// What it sees beside that, where it is asked for.
    pub volumes: Vec<Volume>,
    /// How much `/tmp` may hold, in bytes. Counted as the container's memory.
    pub tmp_bytes: u64,
    /// The same of `/dev/shm`.
    pub shm_bytes: u64,
}

impl View {
    /// Whether users of the container are users of the host on some host path.
    pub(crate) fn has_mapped_owners(&self) -> bool {
        let mut paths = self.host_paths.iter();
        paths.any(|path| path.owners == Owners::Mapped)
    }
}

/// Why a view cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub(crate) struct ViewError {
    what: String,
    source: io::Error,
}

pub(crate) fn failed<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> ViewError {
    let what = what.into();
    move |source| ViewError {
        what,
        source: source.into(),
    }
}

/// A mount of the host that is attached nowhere yet.
struct Place {
    tree: OwnedFd,
    /// Where it goes.
    to: PathBuf,
    /// Its files are those of the host's users, who are to be the container's.
    is_mapped: bool,
}

/// Mounts of the host that are attached nowhere yet.
pub(crate) struct Parts {
    /// Its own folders, then host paths, outer ones first.
    places: Vec<Place>,
    /// `None`: the root is made of the host's programs.
    root: Option<RootParts>,
    /// Holds its secrets, if it has any.
    vault: Option<OwnedFd>,
    /// Devices beside the usual ones.
    pub(crate) devices: Option<OwnDevices>,
}

impl Parts {
    /// Opens sandbox, shared folder, host paths and what the root is made of, and makes nodes of `devices`, as root of the
    /// host.
    pub(crate) fn take(
        profile: &Profile,
        sandbox: &Path,
        shared: Option<&Path>,
        devices: &[PathBuf],
    ) -> Result<Self, ViewError> {
        let view = &profile.view;
        let own = [(sandbox, SANDBOX)].into_iter();
        let own = own.chain(shared.map(|folder| (folder, SHARED)));
        let own = own.map(|(from, to)| {
            let tree = take(CWD, from)?;
            restrict(tree.as_fd(), TAME)?;
            Ok(Place {
                tree,
                to: to.into(),
                is_mapped: false,
            })
        });
        let mut paths: Vec<_> = view.host_paths.iter().collect();
        paths.sort_by(|one, other| one.to.cmp(&other.to));
        let places = own.chain(paths.into_iter().map(host_paths::take));
        let places = places.collect::<Result<_, ViewError>>()?;
        let vault = volumes::lock_secrets(&view.volumes, profile.first_host_id)?;
        crash_points::passed("start.secrets-locked");
        Ok(Self {
            places,
            vault,
            root: RootParts::take(&view.root, profile.first_host_id, profile.walls)?,
            devices: OwnDevices::make(devices, profile.first_host_id)?,
        })
    }

    /// Whether there is something of the host whose owners are to be the container's.
    pub(crate) fn has_owners(&self) -> bool {
        self.places.iter().any(|place| place.is_mapped) || self.root.is_some()
    }

    /// On host paths and in an image the container's users are those of the same numbers on the disk. Before init
    /// attaches them.
    pub(crate) fn map_owners(&self, users: BorrowedFd<'_>) -> Result<(), ViewError> {
        let mut mapped = self.places.iter().filter(|place| place.is_mapped);
        mapped.try_for_each(|place| {
            let what = format!(
                "map users to the file system of {}: it must support mounts with mapped owners, as ext4, xfs, btrfs do",
                place.to.display()
            );
            sys::map_owners(place.tree.as_fd(), users).map_err(failed(what))
        })?;
        self.root
            .as_ref()
            .map_or(Ok(()), |root| root.map_owners(users))
    }
}

/// Makes the view and goes into it, its sandbox the working directory. For init, as root of its user namespace, in
/// namespaces of its own of all kinds but the network. Returns what the command's user is to be given.
pub(crate) fn enter(
    view: &View,
    parts: &Parts,
    clones: &Clones,
    files: &[OwnFile],
    walls: Walls,
    cgroups: bool,
) -> Result<Vec<Gift>, ViewError> {
    let scaffold = file_system("tmpfs", &[("mode", "755"), ("size", "64k")], TAME)?;
    // The root itself lies over that of the base. What an image's root is laid from has to lie below that, where it is covered
    // later.
    let covered = match (&parts.root, disable_layer::stands(Wall::Root)) {
        (None, true) => "/",
        (Some(_), true) => "/proc",
        (_, false) => "/tmp",
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
    show_programs(root, &clones.programs)?;
    let own_devices = parts.devices.as_ref().map(|own| &own.tree);
    let devices = own_devices.or(clones.devices.as_ref());
    let devices = devices.expect("a container has its own devices, or the usual ones");
    let devices = devices.as_fd();
    attach_in(devices, root, Path::new("dev"))?;
    make_proc(root, devices, walls)?;
    show_own(devices, view)?;
    show_system(root, clones, cgroups)?;
    show_own_files(root, files)?;
    let (secrets, mut gifts) = volumes::unlock_secrets(root, parts.vault.as_ref(), &view.volumes)?;
    crash_points::passed("init.secrets-unlocked");
    scratch(root, "tmp", view.tmp_bytes)?;
    for Place { tree, to, .. } in &parts.places {
        let path = to.strip_prefix("/").expect("it was checked to be absolute");
        if to == Path::new(SANDBOX) {
            attach_in(tree.as_fd(), root, path)?;
            continue;
        }
        let made = match is_folder(tree.as_fd())? {
            true => make_folder(root, path),
            false => make_file(root, path),
        };
        let place = made.map_err(|error| no_place("host path", to, error))?;
        attach(tree.as_fd(), place.as_fd(), "")?;
    }
    gifts.extend(volumes::show(root, &view.volumes, secrets)?);
    crash_points::passed("init.volumes-shown");
    crash_points::passed("init.root-laid");
    if own.is_none() {
        // An image's root is the container's to change.
        restrict_one(root, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    }
    hide_base(root)?;
    enter_root(root)?;
    crash_points::passed("init.host-left");
    chdir(SANDBOX).map_err(failed("enter the sandbox"))?;
    Ok(gifts)
}

/// A mount of one folder alone, attached nowhere.
pub(crate) fn take_folder(folder: BorrowedFd<'_>) -> Result<OwnedFd, ViewError> {
    let tree = open_tree(folder, "", CLONE | OpenTreeFlags::AT_EMPTY_PATH)
        .map_err(failed("take a mount of a folder"))?;
    restrict(tree.as_fd(), TAME)?;
    Ok(tree)
}

fn show_system(root: BorrowedFd<'_>, clones: &Clones, cgroups: bool) -> Result<(), ViewError> {
    let system = clones.system.as_fd();
    attach_in(system, root, Path::new("sys"))?;
    if cgroups {
        let attributes =
            TAME | MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_RDONLY;
        let groups = file_system("cgroup2", &[], attributes)?;
        attach(groups.as_fd(), system, template::GROUPS)?;
    }
    Ok(())
}

/// A small writable place of the container's own, for all its users.
fn scratch(parent: BorrowedFd<'_>, name: &str, bytes: u64) -> Result<(), ViewError> {
    attach_in(writable_memory(bytes)?.as_fd(), parent, Path::new(name))
}

/// A file system in memory for all users of the container, mounted nowhere yet.
fn writable_memory(bytes: u64) -> Result<OwnedFd, ViewError> {
    let size = bytes.to_string();
    // An empty file takes none of those bytes, and a kilobyte of the kernel's.
    let files = (bytes / BYTES_A_FILE).max(FEWEST_FILES).to_string();
    let settings = [("mode", "1777"), ("size", &*size), ("nr_inodes", &*files)];
    file_system("tmpfs", &settings, TAME | MountAttrFlags::MOUNT_ATTR_NOEXEC)
}

/// A new file system, mounted nowhere yet. A setting without a value is a flag.
fn file_system(
    kind: &str,
    settings: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, ViewError> {
    let make = || {
        let made = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in settings {
            match *value {
                "" => fsconfig_set_flag(made.as_fd(), *key)?,
                value => fsconfig_set_string(made.as_fd(), *key, value)?,
            }
        }
        fsconfig_create(made.as_fd())?;
        let attributes = disable_layer::standing(attributes);
        fsmount(made.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    make().map_err(failed(format!("make a file system of kind {kind}")))
}

pub(crate) fn attach(
    tree: BorrowedFd<'_>,
    place: BorrowedFd<'_>,
    path: &str,
) -> Result<(), ViewError> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if path.is_empty() {
        flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    }
    move_mount(tree, "", place, path, flags).map_err(failed(format!("attach a mount at {path:?}")))
}

/// Attaches a mount of a folder at one of this name in `parent`, which is made if it is not there. What is a link is not
/// followed.
fn attach_in(tree: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &Path) -> Result<(), ViewError> {
    let words = || format!("make the folder {}", name.display());
    match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(failed(words())(errno)),
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    match move_mount(tree, "", parent, name, flags) {
        Ok(()) => Ok(()),
        // The kernel's answer to a folder over a file or a link.
        Err(rustix::io::Errno::INVAL) => Err(failed(words())(in_its_place())),
        Err(errno) => Err(failed(format!("attach a mount at {}", name.display()))(
            errno,
        )),
    }
}

const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

/// A mount of one folder or file, without what is mounted below it.
pub(crate) fn take(parent: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, ViewError> {
    open_tree(parent, path, CLONE | OpenTreeFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(failed(format!("take a mount of {}", path.display())))
}

/// The same with all that is mounted below it.
fn take_all(parent: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, ViewError> {
    let flags = CLONE | OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    open_tree(parent, path, flags).map_err(failed(format!("take the mounts of {}", path.display())))
}

fn take_if_there(parent: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>, ViewError> {
    match open_tree(parent, path, CLONE | OpenTreeFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(tree) => Ok(Some(tree)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed(format!("take a mount of {path}"))(errno)),
    }
}

/// Sets attributes on a mount and on all below it.
pub(crate) fn restrict(tree: BorrowedFd<'_>, attributes: MountAttrFlags) -> Result<(), ViewError> {
    let attributes = disable_layer::standing(attributes).bits();
    sys::add_mount_attributes(tree, attributes.into(), true).map_err(failed("restrict mounts"))
}

/// Sets attributes on one mount alone.
fn restrict_one(tree: BorrowedFd<'_>, attributes: MountAttrFlags) -> Result<(), ViewError> {
    let attributes = disable_layer::standing(attributes).bits();
    sys::add_mount_attributes(tree, attributes.into(), false).map_err(failed("restrict a mount"))
}

fn is_folder(file: BorrowedFd<'_>) -> Result<bool, ViewError> {
    let found = rustix::fs::fstat(file).map_err(failed("look at what is to be mounted"))?;
    Ok(rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir())
}

/// A folder to mount on, with those above it. Never leaves `parent`, never follows a link.
pub(crate) fn make_folder(parent: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, ViewError> {
    let words = || format!("make the folder {}", path.display());
    let mut made: Option<OwnedFd> = None;
    for part in path.components() {
        let Component::Normal(part) = part else {
            return Err(failed(words())(io::Error::other("its path is not plain")));
        };
        let above = made.as_ref().map_or(parent, AsFd::as_fd);
        match mkdirat(above, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(failed(words())(errno)),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        made = match openat(above, part, flags, Mode::empty()) {
            Ok(folder) => Some(folder),
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                return Err(failed(words())(in_its_place()));
            }
            Err(errno) => return Err(failed(words())(errno)),
        };
    }
    match made {
        Some(folder) => Ok(folder),
        None => parent.try_clone_to_owned().map_err(failed(words())),
    }
}

/// A file to mount on, open for writing if it is new.
fn make_file(parent: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, ViewError> {
    let words = || format!("make the file {}", path.display());
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::other("it has no name"));
    let name = name.map_err(failed(words()))?;
    let folder = make_folder(parent, path.parent().unwrap_or(Path::new("")))?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&folder, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(file) => Ok(file),
        // An image may have it: it is covered then, if it is a file.
        Err(rustix::io::Errno::EXIST) => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = openat(&folder, name, flags, Mode::empty()).map_err(failed(words()))?;
            let found = rustix::fs::fstat(&file).map_err(failed(words()))?;
            if !rustix::fs::FileType::from_raw_mode(found.st_mode).is_file() {
                return Err(failed(words())(in_its_place()));
            }
            Ok(file)
        }
        Err(errno) => Err(failed(words())(errno)),
    }
}

/// That there can be no mount where one is to be, and what helps.
fn no_place(what: &str, path: &Path, error: ViewError) -> ViewError {
    let path = path.display();
    let remedy = match error.source.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            ": nothing can be made there; choose a path outside the folders that are the host's"
        }
        _ => "",
    };
    failed(format!("mount the {what} at {path}{remedy}"))(io::Error::other(error))
}

/// What an image may have where a mount is to be: never followed, or a mount would land elsewhere.
fn in_its_place() -> io::Error {
    io::Error::other(
        "the image has something else in its place, such as a link; make the image without it",
    )
}
