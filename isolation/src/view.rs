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
//! Two steps. The supervisor, who may see all of the host, opens the sandbox and each host path once and takes a
//! mount of it that is attached nowhere (`Parts`). Init, who is root of nothing but the container, attaches them
//! and the rest (`enter`): it looks up no path that a container could have made.

mod devices;
mod host_paths;
mod nesting;
mod own_devices;
mod own_files;
mod proc;
mod secrets;
mod volumes;

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree, unmount,
};
use rustix::process::{chdir, chroot, fchdir, pivot_root};

use self::devices::make_devices;
pub use self::host_paths::{HostPath, Owners};
use self::own_devices::OwnDevices;
use self::own_files::show_own_files;
use self::proc::make_proc;
pub use self::secrets::{SECRET_BYTES, Secret, SecretError};
pub(crate) use self::volumes::{Gift, check as check_volumes};
pub use self::volumes::{Volume, VolumeSource};
use crate::breach::{self, Wall};
use crate::crash;
use crate::image::{Root, RootParts};
use crate::profile::{Profile, Walls};
use crate::spec::OwnFile;
use crate::sys;

/// Where the sandbox is inside.
pub const SANDBOX: &str = "/sandbox";

/// Where the folder is that it shares with other containers, if it has one.
pub const SHARED: &str = "/group";

/// The host's folders that a command sees. Neither homes nor `/var`, `/run`, `/srv`, `/mnt`: data are not programs.
const HOST_FOLDERS: [&str; 8] = ["bin", "etc", "lib", "lib32", "lib64", "opt", "sbin", "usr"];
/// Some of what is not shown, but where tests take that wall away.
const HOST_DATA: [&str; 4] = ["root", "run", "var", "sys/firmware"];
/// Of `/sys` only what libraries ask for the number of processors.
const SYSTEM_FOLDERS: [&str; 2] = ["sys/devices/system/cpu", "sys/devices/system/node"];

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
        crash::passed("start.secrets-locked");
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
    files: &[OwnFile],
    walls: Walls,
    cgroups: bool,
) -> Result<Vec<Gift>, ViewError> {
    let scaffold = file_system("tmpfs", &[("mode", "755"), ("size", "64k")], TAME)?;
    // The root itself lies over the old root, which only those see who look for it later: nobody. What an image's root is
    // laid from has to lie below that, to go with it: where a new file system comes in any case, and all hosts have a folder.
    let covered = match (&parts.root, breach::stands(Wall::Root)) {
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
    let system = if own.is_some() {
        attach(root, CWD, "/")?;
        // What is made for it is not to be left in the container's files.
        let system = file_system("tmpfs", &[("mode", "555"), ("size", "64k")], TAME)?;
        attach(
            system.as_fd(),
            make_folder(root, Path::new("sys"))?.as_fd(),
            "",
        )?;
        system
    } else {
        let data: &[&str] = match breach::stands(Wall::Files) {
            true => &[],
            false => &HOST_DATA,
        };
        for folder in HOST_FOLDERS.iter().chain(data) {
            show_host_folder(root, folder)?;
        }
        scaffold.try_clone().map_err(failed("keep the root"))?
    };
    make_devices(root, view, parts.devices.as_ref())?;
    make_proc(root, walls)?;
    show_system(root, cgroups)?;
    show_own_files(root, files)?;
    let (secrets, mut gifts) = volumes::unlock_secrets(root, parts.vault.as_ref(), &view.volumes)?;
    crash::passed("init.secrets-unlocked");
    scratch(root, "tmp", view.tmp_bytes)?;
    for Place { tree, to, .. } in &parts.places {
        let path = to.strip_prefix("/").expect("it was checked to be absolute");
        let made = match is_folder(tree.as_fd())? {
            true => make_folder(root, path),
            false => make_file(root, path),
        };
        let place = made.map_err(|error| no_place("host path", to, error))?;
        attach(tree.as_fd(), place.as_fd(), "")?;
    }
    gifts.extend(volumes::show(root, &view.volumes, secrets)?);
    crash::passed("init.volumes-shown");
    crash::passed("init.root-laid");
    // Of the host's programs that is the root itself; an image's root is the container's to change.
    restrict_one(system.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    leave_host(root)?;
    crash::passed("init.host-left");
    chdir(SANDBOX).map_err(failed("enter the sandbox"))?;
    Ok(gifts)
}

/// Goes into a root with nothing in it. For a process in namespaces of its own that needs no file by name.
pub(crate) fn leave_for_nothing() -> Result<(), ViewError> {
    let settings = [("mode", "555"), ("size", "4k")];
    let nothing = file_system("tmpfs", &settings, TAME | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    attach(nothing.as_fd(), CWD, "/")?;
    leave_host(nothing.as_fd())
}

/// A mount of one folder alone, attached nowhere.
pub(crate) fn take_folder(folder: BorrowedFd<'_>) -> Result<OwnedFd, ViewError> {
    let tree = open_tree(folder, "", CLONE | OpenTreeFlags::AT_EMPTY_PATH)
        .map_err(failed("take a mount of a folder"))?;
    restrict(tree.as_fd(), TAME)?;
    Ok(tree)
}

/// The old root is gone afterwards, with all that was mounted below it.
fn leave_host(root: BorrowedFd<'_>) -> Result<(), ViewError> {
    fchdir(root).map_err(failed("enter the view"))?;
    if !breach::stands(Wall::Root) {
        return chroot(".").map_err(failed("make the view the root"));
    }
    match pivot_root(".", ".") {
        // The old root lies on top of the new one now.
        Ok(()) => {
            unmount(".", UnmountFlags::DETACH).map_err(failed("let go of the host's root"))?
        }
        // The host runs from its initial memory file system, which can only be covered, as switch_root does.
        Err(rustix::io::Errno::INVAL) => chroot(".").map_err(failed("make the view the root"))?,
        Err(errno) => return Err(failed("make the view the root")(errno)),
    }
    chdir("/").map_err(failed("enter the view's root"))
}

fn show_host_folder(root: BorrowedFd<'_>, name: &str) -> Result<(), ViewError> {
    let from = Path::new("/").join(name);
    let found = match fs::symlink_metadata(&from) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(format!("look at {}", from.display()))(error)),
    };
    if found.is_symlink() {
        let to =
            fs::read_link(&from).map_err(failed(format!("read the link {}", from.display())))?;
        return symlinkat(&to, root, name).map_err(failed(format!("link /{name}")));
    }
    let place = make_folder(root, Path::new(name))?;
    let tree = take_all(CWD, &from)?;
    restrict(tree.as_fd(), TAME | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    attach(tree.as_fd(), place.as_fd(), "")
}

fn show_system(root: BorrowedFd<'_>, cgroups: bool) -> Result<(), ViewError> {
    for folder in SYSTEM_FOLDERS.map(Path::new) {
        if Path::new("/").join(folder).is_dir() {
            let place = make_folder(root, folder)?;
            let tree = take(CWD, &Path::new("/").join(folder))?;
            restrict(tree.as_fd(), TAME | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
            attach(tree.as_fd(), place.as_fd(), "")?;
        }
    }
    if cgroups {
        let attributes =
            TAME | MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_RDONLY;
        let groups = file_system("cgroup2", &[], attributes)?;
        let place = make_folder(root, Path::new("sys/fs/cgroup"))?;
        attach(groups.as_fd(), place.as_fd(), "")?;
    }
    Ok(())
}

/// A small writable place of the container's own, for all its users.
fn scratch(parent: BorrowedFd<'_>, name: &str, bytes: u64) -> Result<(), ViewError> {
    let made = writable_memory(bytes)?;
    attach(
        made.as_fd(),
        make_folder(parent, Path::new(name))?.as_fd(),
        "",
    )
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
        let attributes = breach::standing(attributes);
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
    let attributes = breach::standing(attributes).bits();
    sys::add_mount_attributes(tree, attributes.into(), true).map_err(failed("restrict mounts"))
}

/// Sets attributes on one mount alone.
fn restrict_one(tree: BorrowedFd<'_>, attributes: MountAttrFlags) -> Result<(), ViewError> {
    let attributes = breach::standing(attributes).bits();
    sys::add_mount_attributes(tree, attributes.into(), false).map_err(failed("restrict a mount"))
}

fn is_folder(file: BorrowedFd<'_>) -> Result<bool, ViewError> {
    let found = rustix::fs::fstat(file).map_err(failed("look at what is to be mounted"))?;
    Ok(rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir())
}

/// A folder to mount on, with those above it. Never leaves `parent`, never follows a link.
pub(crate) fn make_folder(parent: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, ViewError> {
    let words = || format!("make the folder {}", path.display());
    let mut folder = parent.try_clone_to_owned().map_err(failed(words()))?;
    for part in path.components() {
        let Component::Normal(part) = part else {
            return Err(failed(words())(io::Error::other("its path is not plain")));
        };
        match mkdirat(&folder, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(failed(words())(errno)),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        folder = match openat(&folder, part, flags, Mode::empty()) {
            Ok(folder) => folder,
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                return Err(failed(words())(in_its_place()));
            }
            Err(errno) => return Err(failed(words())(errno)),
        };
    }
    Ok(folder)
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
