//! Mounts that the views of all containers share: made once by the launcher, cloned for each container.
//!
//! Two mount namespaces. In the first, the *store*, the originals are attached: the host's programs, `/dev` and what is
//! shown of `/sys`. In the second, the *base*, there is nothing but an empty root and a `/proc` without processes; a
//! container's first process is made there, so that its mount namespace is a copy of two mounts and not of all that the host
//! has. A supervisor visits both and returns to the host, by whose paths it lives.
//!
//! Originals follow the host where its mounts are shared (`mount_namespaces(7)`), as systemd has them: what is mounted later
//! below a folder of programs is seen by later containers. Nothing here propagates to the host.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};
use rustix::fs::{CWD, symlinkat};
use rustix::mount::MountAttrFlags;

use super::change_root::leave_host;
use super::devices::make_devices;
use super::{
    HOST_DATA, HOST_FOLDERS, Parts, SYSTEM_DATA, SYSTEM_FOLDERS, TAME, ViewError, attach,
    attach_in, failed, file_system, make_folder, restrict, restrict_one, take, take_all,
};
use crate::disable_layer::{self, Wall};
use crate::sys;

/// Where the store has what a container finds at `/dev` and `/sys`.
const DEVICES: &str = "dev";
const SYSTEM: &str = "sys";
/// Below the latter: where a container's view of its groups goes.
pub(super) const GROUPS: &str = "fs/cgroup";

/// The launcher's hold on the two namespaces.
pub(crate) struct Template {
    host: OwnedFd,
    store: OwnedFd,
    base: OwnedFd,
    programs: Vec<Program>,
}

/// What is shown of the host's programs in one place.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) name: PathBuf,
    /// `None`: a folder.
    pub(super) link: Option<PathBuf>,
}

/// Mounts for one container that are attached nowhere yet.
pub(crate) struct Clones {
    pub(super) devices: Option<OwnedFd>,
    pub(super) system: OwnedFd,
    /// With its mount, if it is a folder.
    pub(super) programs: Vec<(Program, Option<OwnedFd>)>,
}

impl Template {
    /// As root of the host, in a process without threads.
    pub(crate) fn make() -> Result<Self, ViewError> {
        let programs = programs()?;
        let (store, base) = (CloneFlags::CLONE_NEWNS, CloneFlags::CLONE_NEWPID);
        Ok(Self {
            host: File::open("/proc/self/ns/mnt")
                .map_err(failed("open the host's mount namespace"))?
                .into(),
            store: namespace_of(store, || fill_store(&programs))?,
            base: namespace_of(store | base, fill_base)?,
            programs,
        })
    }

    /// Runs `make`, which makes a container's first process, where that finds nothing of the host; with clones of what its
    /// view needs. By a supervisor.
    pub(crate) fn below<T>(
        &self,
        parts: &Parts,
        make: impl FnOnce(Clones) -> T,
    ) -> Result<T, ViewError> {
        enter(&self.store, "enter the originals of mounts")?;
        let made = self.clones(parts).and_then(|clones| {
            // Where a test has taken that wall away, it is the host that is below the root.
            let below = match disable_layer::stands(Wall::Root) {
                true => &self.base,
                false => &self.host,
            };
            enter(below, "enter the base of mount namespaces")?;
            Ok(make(clones))
        });
        enter(&self.host, "return to the host's mounts")?;
        made
    }

    fn clones(&self, parts: &Parts) -> Result<Clones, ViewError> {
        let clone = |name: &Path| take_all(CWD, &Path::new("/").join(name));
        // What was mounted on the host since is to be as restricted, and nothing of that is to come later.
        let clone_of_host = |name: &Path| {
            let tree = clone(name)?;
            restrict(tree.as_fd(), TAME | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
            Ok(tree)
        };
        let programs = match &parts.root {
            // An image has its own.
            Some(_) => &[][..],
            None => &self.programs,
        };
        let programs = programs.iter().map(|program| {
            let folder = program.link.is_none().then(|| clone_of_host(&program.name));
            Ok((program.clone(), folder.transpose()?))
        });
        Ok(Clones {
            devices: match &parts.devices {
                Some(_) => None,
                None => Some(clone(Path::new(DEVICES))?),
            },
            system: clone(Path::new(SYSTEM))?,
            programs: programs.collect::<Result<_, ViewError>>()?,
        })
    }
}

/// The root of the namespace becomes this process', too.
fn enter(namespace: &OwnedFd, what: &str) -> Result<(), ViewError> {
    setns(namespace, CloneFlags::CLONE_NEWNS).map_err(failed(what))
}

/// What is shown only where tests have taken that wall away.
fn shown_when_breached(data: &'static [&'static str]) -> &'static [&'static str] {
    match disable_layer::stands(Wall::Files) {
        true => &[],
        false => data,
    }
}

/// What the host has of its programs.
fn programs() -> Result<Vec<Program>, ViewError> {
    let mut programs = Vec::new();
    for name in HOST_FOLDERS.iter().chain(shown_when_breached(&HOST_DATA)) {
        let from = Path::new("/").join(name);
        let found = match fs::symlink_metadata(&from) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(format!("look at {}", from.display()))(error)),
        };
        let link = found.is_symlink().then(|| fs::read_link(&from));
        let link = link.transpose();
        programs.push(Program {
            name: name.into(),
            link: link.map_err(failed(format!("read the link {}", from.display())))?,
        });
    }
    Ok(programs)
}

/// The mount namespace of a child that has filled it; nothing but this descriptor holds it then.
fn namespace_of(
    flags: CloneFlags,
    fill: impl FnOnce() -> Result<(), ViewError>,
) -> Result<OwnedFd, ViewError> {
    let words = "make a mount namespace for containers";
    let (mut ours, theirs) = UnixStream::pair().map_err(failed(words))?;
    let child = sys::clone_process(flags.bits(), None, || {
        // Our own end among others: or it would not notice when we close that.
        let closed = sys::close_all_but_these(&[theirs.as_fd()]);
        let filled = closed.map_err(failed(words)).and_then(|()| fill());
        i32::from(tell(&theirs, filled).is_err())
    })
    .map_err(failed(words))?;
    drop(theirs);
    let told = heard(&mut ours).map_err(failed(words));
    let namespace = told
        .and_then(|()| File::open(format!("/proc/{}/ns/mnt", child.pid)).map_err(failed(words)));
    // It ends when it sees our end closed, and is not to stay as a zombie. Where the kernel reaps children there is none.
    drop(ours);
    let _ = sys::wait_child(child.pid, true);
    Ok(namespace?.into())
}

/// What the child says.
fn heard(from: &mut UnixStream) -> io::Result<()> {
    let mut told = [0; 512];
    let length = from.read(&mut told)?;
    match told[..length].split_first() {
        Some((0, _)) => Ok(()),
        Some((_, why)) => Err(io::Error::other(String::from_utf8_lossy(why).into_owned())),
        None => Err(io::Error::other(
            "the process that was to fill it has ended",
        )),
    }
}

/// Says how it went (0, or 1 and the reason), and waits until it was heard.
fn tell(mut to: &UnixStream, filled: Result<(), ViewError>) -> io::Result<()> {
    let text = match filled {
        Ok(()) => vec![0],
        Err(error) => [&[1], crate::supervisor::sentence(&error).as_bytes()].concat(),
    };
    to.write_all(&text)?;
    to.read(&mut [0]).map(drop)
}

/// Each original at the place that it has in a container.
fn fill_store(programs: &[Program]) -> Result<(), ViewError> {
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)
        .map_err(failed("follow the host's mounts"))?;
    let root = file_system("tmpfs", &[("mode", "755"), ("size", "64k")], TAME)?;
    let root = root.as_fd();
    attach(root, CWD, "/")?;
    for program in programs.iter().filter(|program| program.link.is_none()) {
        let tree = take_all(CWD, &Path::new("/").join(&program.name))?;
        attach(tree.as_fd(), make_folder(root, &program.name)?.as_fd(), "")?;
    }
    let devices = make_devices(&[], 0)?;
    attach_in(devices.as_fd(), root, Path::new(DEVICES))?;
    let system = file_system("tmpfs", &[("mode", "555"), ("size", "64k")], TAME)?;
    attach_in(system.as_fd(), root, Path::new(SYSTEM))?;
    for folder in SYSTEM_FOLDERS
        .iter()
        .chain(shown_when_breached(&SYSTEM_DATA))
    {
        let from = Path::new("/sys").join(folder);
        if from.is_dir() {
            let tree = take(CWD, &from)?;
            restrict(tree.as_fd(), TAME | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
            let place = make_folder(system.as_fd(), Path::new(folder))?;
            attach(tree.as_fd(), place.as_fd(), "")?;
        }
    }
    make_folder(system.as_fd(), Path::new(GROUPS))?;
    restrict_one(system.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    restrict_one(root, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    leave_host(root)
}

/// An empty root, and what the kernel wants to see before it shows a container's root a `/proc` of its own: one that hides
/// nothing. It is of a pid namespace whose only process is about to end.
fn fill_base() -> Result<(), ViewError> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(failed("make mounts private"))?;
    let root = file_system("tmpfs", &[("mode", "555"), ("size", "4k")], TAME)?;
    let root = root.as_fd();
    let attributes = TAME | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let processes = match disable_layer::stands(Wall::Processes) {
        true => file_system("proc", &[], attributes)?,
        false => take_all(CWD, Path::new("/proc"))?,
    };
    attach(root, CWD, "/")?;
    attach_in(processes.as_fd(), root, Path::new("proc"))?;
    restrict_one(root, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    leave_host(root)
}

/// Shows a container the host's programs.
pub(super) fn show_programs(
    root: BorrowedFd<'_>,
    programs: &[(Program, Option<OwnedFd>)],
) -> Result<(), ViewError> {
    for (program, folder) in programs {
        let name = program.name.as_path();
        if let Some(folder) = folder {
            attach_in(folder.as_fd(), root, name)?;
        } else if let Some(link) = &program.link {
            symlinkat(link, root, name).map_err(failed(format!("link /{}", name.display())))?;
        }
    }
    Ok(())
}
