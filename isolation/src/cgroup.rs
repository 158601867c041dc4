//! cgroup v2: our tree, its groups, their end.
//!
//! ```text
//! <mount>/argosy/<agent>/              a Tree; holds no process itself
//! <mount>/argosy/<agent>/supervisors/  the launcher and every supervisor
//! <mount>/argosy/<agent>/<container>/  init and command of one container: what cgroup.kill ends
//! ```
//! Never touches a group outside the tree it was given.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::limits::{Limits, Missing};
use crate::spec::ContainerId;

/// The group of the launcher and the supervisors, beside those of the containers.
pub(crate) const SUPERVISORS: &str = "supervisors";
/// Controllers the tree hands down where the host has them.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];
/// How often an emptying group is looked at again: the kernel's notices come at most every 10 ms.
const LOOK_AGAIN_MS: u8 = 2;

/// What can go wrong with a group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup2 file system in `/proc/self/mountinfo`.
    #[error("no cgroup2 file system is mounted: mount one, for example at /sys/fs/cgroup")]
    NoMount,
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A value was not taken.
    #[error("cannot write {value:?} to {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// A group could not be made.
    #[error("cannot create the cgroup {path}")]
    Create {
        /// The group.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A group could not be removed.
    #[error("cannot remove the cgroup {path}")]
    Remove {
        /// The group.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Processes in a killed group are still there.
    #[error("the processes in the cgroup {path} have not ended within {waited_ms} ms")]
    StillPopulated {
        /// The group.
        path: PathBuf,
        /// How long was waited, in milliseconds.
        waited_ms: u128,
    },
}

fn read(path: PathBuf) -> Result<String, CgroupError> {
    fs::read_to_string(&path).map_err(|source| CgroupError::Read { path, source })
}

fn write(path: PathBuf, value: &str) -> Result<(), CgroupError> {
    let value = value.to_owned();
    fs::write(&path, &value).map_err(|source| CgroupError::Write {
        path,
        value,
        source,
    })
}

/// The controllers that a group may use.
pub(crate) fn read_controllers(group: &Path) -> Result<Vec<String>, CgroupError> {
    let text = read(group.join("cgroup.controllers"))?;
    Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
}

/// Where cgroup2 is mounted: hybrid hosts have it in another place than pure ones.
pub fn mount_point() -> Result<PathBuf, CgroupError> {
    let mounts = read("/proc/self/mountinfo".into())?;
    find_mount_point(&mounts).ok_or(CgroupError::NoMount)
}

fn find_mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        if right.split(' ').next()? != "cgroup2" {
            return None;
        }
        let escaped = left.split(' ').nth(4)?;
        // The kernel writes a blank in a path as \040; the others it escapes do not occur in practice.
        Some(PathBuf::from(escaped.replace("\\040", " ")))
    })
}

/// Below which group this process may make its tree: the mount point for root, else its own group (which
/// must have been delegated to its user).
pub fn default_parent() -> Result<PathBuf, CgroupError> {
    let mount = mount_point()?;
    if nix::unistd::geteuid().is_root() {
        return Ok(mount);
    }
    let groups = read("/proc/self/cgroup".into())?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    Ok(mount.join(own.unwrap_or_default()))
}

/// The groups of one agent.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Makes `<parent>/argosy/<agent>`, hands down what controllers there are, and makes the supervisors'
    /// group. Repeatable.
    pub fn create(parent: &Path, agent: &ContainerId) -> Result<Self, CgroupError> {
        let ours = parent.join("argosy");
        let tree = Self {
            root: ours.join(agent.as_str()),
        };
        hand_down(parent)?;
        for path in [&ours, &tree.root] {
            make(path)?;
            hand_down(path)?;
        }
        make(&tree.supervisors())?;
        Ok(tree)
    }

    /// The tree's own folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The group that the launcher is put in, and so the supervisors.
    #[must_use]
    pub fn supervisors(&self) -> PathBuf {
        self.root.join(SUPERVISORS)
    }

    /// A container's group. It need not exist.
    #[must_use]
    pub fn group(&self, id: &ContainerId) -> Group {
        Group {
            path: self.root.join(id.as_str()),
        }
    }

    /// Which controllers containers of this tree would lack for these limits.
    pub fn missing(&self, limits: &Limits) -> Result<Missing, CgroupError> {
        Ok(limits.missing(&read_controllers(&self.supervisors())?))
    }

    /// The containers that have a group now, in order of their names.
    pub fn containers(&self) -> Result<Vec<ContainerId>, CgroupError> {
        let unreadable = |source| CgroupError::Read {
            path: self.root.clone(),
            source,
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| ContainerId::new(name).ok());
            if entry.path().is_dir() {
                found.extend(id);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Removes the tree once no container and no supervisor is left in it.
    pub fn remove(&self) -> Result<(), CgroupError> {
        remove_folder(&self.supervisors())?;
        remove_folder(&self.root)?;
        if let Some(ours) = self.root.parent() {
            // Stays while another agent of this host has its tree there.
            let _ = fs::remove_dir(ours);
        }
        Ok(())
    }
}

fn make(path: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(CgroupError::Create {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Lets the children of `group` use what controllers it has. One that the kernel will not hand down (a
/// group that holds processes, say) is then missing below, and reported as such.
fn hand_down(group: &Path) -> Result<(), CgroupError> {
    let present = read_controllers(group)?;
    for controller in CONTROLLERS {
        if present.iter().any(|name| name == controller) {
            let _ = fs::write(
                group.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
    }
    Ok(())
}

fn remove_folder(path: &Path) -> Result<(), CgroupError> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(CgroupError::Remove {
            path: path.to_owned(),
            source,
        }),
    }
}

/// What a group has used; `None` where the host has no controller that counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Processor time, in microseconds. The kernel counts it without any controller.
    pub cpu_us: Option<u64>,
    /// Time for which `cpu.max` held it back, in microseconds.
    pub cpu_throttled_us: Option<u64>,
    /// Memory now, in bytes.
    pub memory_bytes: Option<u64>,
    /// The most memory it ever had, in bytes.
    pub memory_peak_bytes: Option<u64>,
    /// Processes and threads now.
    pub pids: Option<u64>,
    /// How many of its processes were killed for want of memory.
    pub out_of_memory_kills: Option<u64>,
}

/// One container's group.
#[derive(Debug, Clone)]
pub struct Group {
    path: PathBuf,
}

impl Group {
    /// The group at this path. It need not exist.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it. One that already exists is taken only if nothing lives in it.
    pub fn create(&self) -> Result<(), CgroupError> {
        let fresh = fs::create_dir(&self.path);
        match fresh {
            Ok(()) => Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::AlreadyExists && !self.is_populated()? =>
            {
                Ok(())
            }
            Err(source) => Err(CgroupError::Create {
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// A handle for `clone3`.
    pub(crate) fn open(&self) -> Result<OwnedFd, CgroupError> {
        let path = self.path.clone();
        let opened = File::open(&path);
        Ok(opened
            .map_err(|source| CgroupError::Read { path, source })?
            .into())
    }

    /// Whether any process lives in it or below. A group that is not there holds none.
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        match read(self.path.join("cgroup.events")) {
            Ok(events) => Ok(value_of(&events, "populated") != Some(0)),
            Err(CgroupError::Read { source, .. }) if is_absent(&source) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether this process is in it.
    pub fn contains(&self, pid: i32) -> Result<bool, CgroupError> {
        let members = read(self.path.join("cgroup.procs"))?;
        Ok(members.lines().any(|line| line.parse() == Ok(pid)))
    }

    /// Moves a process into it.
    pub fn add(&self, pid: i32) -> Result<(), CgroupError> {
        write(self.path.join("cgroup.procs"), &pid.to_string())
    }

    /// Kills every process in it and below, at once: no fork escapes. A group that is not there is fine.
    pub fn kill(&self) -> Result<(), CgroupError> {
        match write(self.path.join("cgroup.kill"), "1") {
            Err(CgroupError::Write { source, .. }) if is_absent(&source) && !self.path.exists() => {
                Ok(())
            }
            other => other,
        }
    }

    /// Kills what lives in it, waits until nothing does, and removes it with all groups below. Repeatable.
    pub fn remove(&self, patience: Duration) -> Result<(), CgroupError> {
        // Nothing lived in it, nothing made below it: the usual case after an orderly end.
        if remove_folder(&self.path).is_ok() {
            return Ok(());
        }
        self.kill()?;
        self.wait_empty(patience)?;
        let deadline = Instant::now() + patience;
        loop {
            match remove_all(&self.path) {
                // The last process may still be on its way out of the kernel.
                Err(CgroupError::Remove { source, .. })
                    if source.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(LOOK_AGAIN_MS.into()));
                }
                other => return other,
            }
        }
    }

    /// Waits until nothing lives in it.
    pub fn wait_empty(&self, patience: Duration) -> Result<(), CgroupError> {
        let path = self.path.join("cgroup.events");
        let started = Instant::now();
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(source) => return Err(CgroupError::Read { path, source }),
        };
        let mut events = String::new();
        loop {
            events.clear();
            let read = file
                .rewind()
                .and_then(|()| file.read_to_string(&mut events));
            match read {
                Err(error) if is_absent(&error) => return Ok(()),
                Err(source) => return Err(CgroupError::Read { path, source }),
                Ok(_) if value_of(&events, "populated") == Some(0) => return Ok(()),
                Ok(_) => {}
            }
            if started.elapsed() >= patience {
                return Err(CgroupError::StillPopulated {
                    path: self.path.clone(),
                    waited_ms: patience.as_millis(),
                });
            }
            let mut watched = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
            // Whatever it says, the file is read again.
            let _ = poll(&mut watched, PollTimeout::from(LOOK_AGAIN_MS));
        }
    }

    /// What it has used so far. Files that are not there yield `None`.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let text = |file: &str| fs::read_to_string(self.path.join(file)).ok();
        let number = |file: &str| text(file)?.trim().parse().ok();
        let cpu = text("cpu.stat").unwrap_or_default();
        let memory = text("memory.events").unwrap_or_default();
        Stats {
            cpu_us: value_of(&cpu, "usage_usec"),
            cpu_throttled_us: value_of(&cpu, "throttled_usec"),
            memory_bytes: number("memory.current"),
            memory_peak_bytes: number("memory.peak"),
            pids: number("pids.current"),
            out_of_memory_kills: value_of(&memory, "oom_kill"),
        }
    }
}

/// Removes a group and all below, deepest first.
fn remove_all(path: &Path) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(()),
        Err(source) => {
            let path = path.to_owned();
            return Err(CgroupError::Read { path, source });
        }
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_all(&entry.path())?;
        }
    }
    remove_folder(path)
}

/// A removed group's files are either not found or, if open, without a device behind them.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// The number behind `key` in the kernel's "key number" lines.
fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_wherever_it_is_mounted() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,x shared:4 - cgroup2 cgroup2 rw\n";
        let found = find_mount_point(hybrid);
        assert_eq!(found, Some("/sys/fs/cgroup/uni fied".into()));
        assert_eq!(
            find_mount_point("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw"),
            None
        );
    }

    #[test]
    fn controllers_are_handed_down_where_present() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("cgroup.controllers"), "cpuset memory\n").unwrap();
        hand_down(parent.path()).unwrap();
        let written = fs::read_to_string(parent.path().join("cgroup.subtree_control")).unwrap();
        assert_eq!(written, "+memory");
    }

    #[test]
    fn an_absent_group_is_empty_and_can_be_killed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let group = Group::at(&folder.path().join("gone"));
        assert!(!group.is_populated().unwrap());
        group.kill().unwrap();
        group.remove(Duration::ZERO).unwrap();
        group.remove(Duration::ZERO).unwrap();
    }

    #[test]
    fn a_group_that_does_not_empty_is_reported_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("cgroup.events"),
            "populated 1\nfrozen 0\n",
        )
        .unwrap();
        let group = Group::at(folder.path());
        assert!(group.is_populated().unwrap());
        let error = group.remove(Duration::from_millis(5)).unwrap_err();
        assert!(
            matches!(error, CgroupError::StillPopulated { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(folder.path().to_str().unwrap()));
    }

    #[test]
    fn statistics_are_read_where_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
        put("cpu.stat", "usage_usec 1234\nuser_usec 1000\n");
        put("memory.peak", "4096\n");
        put("memory.events", "low 0\noom 1\noom_kill 2\n");
        let stats = Group::at(folder.path()).stats();
        assert_eq!(stats.cpu_us, Some(1234));
        assert_eq!(stats.memory_peak_bytes, Some(4096));
        assert_eq!(stats.out_of_memory_kills, Some(2));
        assert_eq!(stats.pids, None);
    }

    #[test]
    fn a_group_is_taken_again_only_when_nothing_lives_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let group = Group::at(&folder.path().join("c"));
        group.create().unwrap();
        group.create().unwrap();
        fs::write(group.path().join("cgroup.events"), "populated 1\n").unwrap();
        assert!(matches!(group.create(), Err(CgroupError::Create { .. })));
    }
}
