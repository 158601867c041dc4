//! Mounts that all containers share: created once by the launcher, cloned for each container.
//!
//! There are two mount namespaces. In the first, the *store*, the originals are attached: the
//! host's programs, `/dev` and the visible part of `/sys`. The second, the *base*, holds only an
//! empty root and a `/proc` without processes. A container's first process is created in the base,
//! so that its mount namespace is a copy of two mounts and not of all the host's mounts. A
//! supervisor enters both and returns to the host, whose paths it needs.
//!
//! Originals follow the host where its mounts are shared (`mount_namespaces(7)`), as with systemd:
//! a later mount below a directory of programs is visible in later containers. Nothing here
//! propagates to the host.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use argosy_host::sys;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};
use rustix::fs::{CWD, symlinkat};
use rustix::mount::MountAttrFlags;

use super::change_root::leave_host;
use super::devices::make_devices;
use super::{HOST_DATA, HOST_DIRS, PreparedMounts, SYSTEM_DATA, SYSTEM_DIRS};
use crate::rootfs::mount_calls::{
    DEFAULT_ATTRIBUTES, MountError, attach, attach_in, clone_mount, clone_tree, create_dir,
    file_system, mount_error, restrict, restrict_one,
};
use crate::testing::disable_layer::layer_disabled;

/// The paths in the store of a container's `/dev` and `/sys`.
const DEVICES: &str = "dev";
const SYSTEM: &str = "sys";
/// The mount point of a container's cgroups, below `/sys`.
pub(super) const GROUPS: &str = "fs/cgroup";

/// The launcher's handles on the two namespaces.
pub(crate) struct MountTemplate {
    host: OwnedFd,
    store: OwnedFd,
    base: OwnedFd,
    programs: Vec<ProgramPath>,
}

/// One visible path of the host's programs.
#[derive(Debug, Clone)]
pub(super) struct ProgramPath {
    pub(super) name: PathBuf,
    /// The target of a link; `None`: a directory.
    pub(super) link: Option<PathBuf>,
}

/// Unattached mounts for one container.
pub(crate) struct ClonedMounts {
    pub(super) devices: Option<OwnedFd>,
    pub(super) system: OwnedFd,
    /// With its mount, if it is a directory.
    pub(super) programs: Vec<(ProgramPath, Option<OwnedFd>)>,
}

impl MountTemplate {
    /// Creates the template, as host root in a process without threads.
    pub(crate) fn make() -> Result<Self, MountError> {
        let programs = programs()?;
        let (store, base) = (CloneFlags::CLONE_NEWNS, CloneFlags::CLONE_NEWPID);
        Ok(Self {
            host: File::open("/proc/self/ns/mnt")
                .map_err(mount_error("open the host's mount namespace"))?
                .into(),
            store: create_namespace(store, || fill_store(&programs))?,
            base: create_namespace(store | base, fill_base)?,
            programs,
        })
    }

    /// Runs `make`, which creates a container's first process, in the base, with clones of the
    /// mounts that the container needs. Called by a supervisor.
    pub(crate) fn with_clones<T>(
        &self,
        parts: &PreparedMounts,
        make: impl FnOnce(ClonedMounts) -> T,
    ) -> Result<T, MountError> {
        enter(&self.store, "enter the originals of mounts")?;
        let made = self.clones(parts).and_then(|clones| {
            // Where a test has disabled that layer, the host's root is below the container's.
            let below = layer_disabled!(Root, &self.base, &self.host);
            enter(below, "enter the base of mount namespaces")?;
            Ok(make(clones))
        });
        enter(&self.host, "return to the host's mounts")?;
        made
    }

    fn clones(&self, parts: &PreparedMounts) -> Result<ClonedMounts, MountError> {
        let clone = |name: &Path| clone_tree(CWD, &Path::new("/").join(name));
        // Later mounts of the host get the same restrictions, and the clone receives no mounts
        // after that.
        let clone_of_host = |name: &Path| {
            let tree = clone(name)?;
            restrict(
                tree.as_fd(),
                DEFAULT_ATTRIBUTES | MountAttrFlags::MOUNT_ATTR_RDONLY,
            )?;
            Ok(tree)
        };
        let programs = match &parts.root {
            // An image has its own programs.
            Some(_) => &[][..],
            None => &self.programs,
        };
        let programs = programs.iter().map(|program| {
            let directory = program.link.is_none().then(|| clone_of_host(&program.name));
            Ok((program.clone(), directory.transpose()?))
        });
        Ok(ClonedMounts {
            devices: match &parts.devices {
                Some(_) => None,
                None => Some(clone(Path::new(DEVICES))?),
            },
            system: clone(Path::new(SYSTEM))?,
            programs: programs.collect::<Result<_, MountError>>()?,
        })
    }
}

/// Enters a mount namespace; its root becomes this process's root.
fn enter(namespace: &OwnedFd, what: &str) -> Result<(), MountError> {
    setns(namespace, CloneFlags::CLONE_NEWNS).map_err(mount_error(what))
}

/// Returns the directories that are visible only where tests have disabled that layer.
fn visible_if_disabled(data: &'static [&'static str]) -> &'static [&'static str] {
    layer_disabled!(Files, &[], data)
}

/// Lists the host's programs.
fn programs() -> Result<Vec<ProgramPath>, MountError> {
    let mut programs = Vec::new();
    for name in HOST_DIRS.iter().chain(visible_if_disabled(&HOST_DATA)) {
        let from = Path::new("/").join(name);
        let found = match fs::symlink_metadata(&from) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(mount_error(format!("inspect {}", from.display()))(error)),
        };
        let link = found.is_symlink().then(|| fs::read_link(&from));
        let link = link.transpose();
        programs.push(ProgramPath {
            name: name.into(),
            link: link.map_err(mount_error(format!("read the link {}", from.display())))?,
        });
    }
    Ok(programs)
}

/// Returns the mount namespace of a child that has filled it; then only this descriptor holds it.
fn create_namespace(
    flags: CloneFlags,
    fill: impl FnOnce() -> Result<(), MountError>,
) -> Result<OwnedFd, MountError> {
    let words = "make a mount namespace for containers";
    let (mut ours, theirs) = UnixStream::pair().map_err(mount_error(words))?;
    let child = sys::clone_process(flags.bits(), None, || {
        // Including the parent's end: otherwise the child would not notice when the parent closes
        // it.
        let closed = sys::close_all_but_these(&[theirs.as_fd()]);
        let filled = closed.map_err(mount_error(words)).and_then(|()| fill());
        i32::from(send_reply(&theirs, filled).is_err())
    })
    .map_err(mount_error(words))?;
    drop(theirs);
    let reported = receive_reply(&mut ours).map_err(mount_error(words));
    let namespace = reported.and_then(|()| {
        File::open(format!("/proc/{}/ns/mnt", child.pid)).map_err(mount_error(words))
    });
    // The child exits when the parent's end closes, and must not stay as a zombie. Where the kernel
    // reaps children there is none.
    drop(ours);
    let _ = sys::wait_child(child.pid, true);
    Ok(namespace?.into())
}

/// Reads the child's result.
fn receive_reply(from: &mut UnixStream) -> io::Result<()> {
    let mut reported = [0; 512];
    let length = from.read(&mut reported)?;
    match reported[..length].split_first() {
        Some((0, _)) => Ok(()),
        Some((_, why)) => Err(io::Error::other(String::from_utf8_lossy(why).into_owned())),
        None => Err(io::Error::other(
            "the process that was to fill it has ended",
        )),
    }
}

/// Sends the result (0, or 1 and the reason), and waits until the parent has read it.
fn send_reply(mut to: &UnixStream, filled: Result<(), MountError>) -> io::Result<()> {
    let text = match filled {
        Ok(()) => vec![0],
        Err(error) => [&[1], argosy_host::packets::error_chain(&error).as_bytes()].concat(),
    };
    to.write_all(&text)?;
    to.read(&mut [0]).map(drop)
}

/// Attaches each original at its path in a container.
fn fill_store(programs: &[ProgramPath]) -> Result<(), MountError> {
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)
        .map_err(mount_error("follow the host's mounts"))?;
    let root = file_system(
        "tmpfs",
        &[("mode", "755"), ("size", "64k")],
        DEFAULT_ATTRIBUTES,
    )?;
    let root = root.as_fd();
    attach(root, CWD, "/")?;
    for program in programs.iter().filter(|program| program.link.is_none()) {
        let tree = clone_tree(CWD, &Path::new("/").join(&program.name))?;
        attach(tree.as_fd(), create_dir(root, &program.name)?.as_fd(), "")?;
    }
    let devices = make_devices(&[], 0)?;
    attach_in(devices.as_fd(), root, Path::new(DEVICES))?;
    let system = file_system(
        "tmpfs",
        &[("mode", "555"), ("size", "64k")],
        DEFAULT_ATTRIBUTES,
    )?;
    attach_in(system.as_fd(), root, Path::new(SYSTEM))?;
    for directory in SYSTEM_DIRS.iter().chain(visible_if_disabled(&SYSTEM_DATA)) {
        let from = Path::new("/sys").join(directory);
        if from.is_dir() {
            let tree = clone_mount(CWD, &from)?;
            restrict(
                tree.as_fd(),
                DEFAULT_ATTRIBUTES | MountAttrFlags::MOUNT_ATTR_RDONLY,
            )?;
            let place = create_dir(system.as_fd(), Path::new(directory))?;
            attach(tree.as_fd(), place.as_fd(), "")?;
        }
    }
    create_dir(system.as_fd(), Path::new(GROUPS))?;
    restrict_one(system.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    restrict_one(root, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    leave_host(root)
}

/// Mounts an empty root, and a full `/proc`: the kernel requires a visible one before it lets a
/// container mount a new one. That `/proc` is of a pid namespace whose only process is about to
/// exit.
fn fill_base() -> Result<(), MountError> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(mount_error("make mounts private"))?;
    let root = file_system(
        "tmpfs",
        &[("mode", "555"), ("size", "4k")],
        DEFAULT_ATTRIBUTES,
    )?;
    let root = root.as_fd();
    let attributes = DEFAULT_ATTRIBUTES | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let own = || file_system("proc", &[], attributes);
    let processes = layer_disabled!(Pid, own()?, clone_tree(CWD, Path::new("/proc"))?);
    attach(root, CWD, "/")?;
    attach_in(processes.as_fd(), root, Path::new("proc"))?;
    restrict_one(root, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    leave_host(root)
}

/// Attaches the host's programs in a container.
pub(super) fn attach_programs(
    root: BorrowedFd<'_>,
    programs: &[(ProgramPath, Option<OwnedFd>)],
) -> Result<(), MountError> {
    for (program, directory) in programs {
        let name = program.name.as_path();
        if let Some(directory) = directory {
            attach_in(directory.as_fd(), root, name)?;
        } else if let Some(link) = &program.link {
            symlinkat(link, root, name)
                .map_err(mount_error(format!("link /{}", name.display())))?;
        }
    }
    Ok(())
}
