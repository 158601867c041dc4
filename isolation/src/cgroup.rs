//! cgroup v2: our tree, its groups, their end.
//!
//! ```text
//! <mount>/argosy/<agent>/              a Tree; holds no process itself
//! <mount>/argosy/<agent>/supervisors/  the launcher and every supervisor
//! <mount>/argosy/<agent>/<container>/  init and command of one container: what cgroup.kill ends
//! <mount>/argosy/<agent>.content/      what fetches, pulls and unpacks, with limits of its own
//! ```
//! Never touches a group outside the tree it was given.

mod group;
mod stats;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub use self::group::Group;
pub(crate) use self::stats::LastUsage;
pub use self::stats::{Io, Pressure, Stall, Stats};
use crate::limits::{Limits, Missing};
use crate::spec::ContainerId;

/// The group of the launcher and the supervisors, beside those of the containers.
pub(crate) const SUPERVISORS: &str = "supervisors";
/// How the name of the group ends that has what brings content from outside. It is beside the tree: tasks and it may not
/// reach the same servers.
const CONTENT: &str = ".content";
/// What all of it may use together, whatever strangers send: 1 GiB of memory without swap, 128 threads, the time of one
/// processor, and half of the share of processor time that each container gets by default where these compete.
const CONTENT_LIMITS: [(&str, &str); 5] = [
    ("memory.max", "1073741824"),
    ("memory.swap.max", "0"),
    ("pids.max", "128"),
    ("cpu.weight", "50"),
    ("cpu.max", "100000 100000"),
];
/// Controllers that containers get where the host has them.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "memory", "pids", "io"];
/// What the tree's own group gets beside them: no container is told apart by it.
const OF_THE_TREE: &str = "hugetlb";

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

pub(crate) fn read(path: PathBuf) -> Result<String, CgroupError> {
    fs::read_to_string(&path).map_err(|source| CgroupError::Read { path, source })
}

/// Writes to a file that is there: the kernel answers an attempt to make one as if a right were wanting.
pub(crate) fn write(path: PathBuf, value: &str) -> Result<(), CgroupError> {
    let mut options = OpenOptions::new();
    let opened = options.write(true).truncate(true).open(&path);
    let written = opened.and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|source| CgroupError::Write {
        path,
        value: value.to_owned(),
        source,
    })
}

/// The controllers that a group may use.
pub(crate) fn read_controllers(group: &Path) -> Result<Vec<String>, CgroupError> {
    let text = read(group.join("cgroup.controllers"))?;
    Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
}

/// Where cgroup2 is mounted: hybrid hosts have it in another place than pure ones.
///
/// # Errors
/// If no cgroup2 is mounted, or the list of mounts cannot be read.
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
///
/// # Errors
/// If no cgroup2 is mounted, or `/proc` cannot be read.
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
    /// Makes `<parent>/argosy/<agent>`, hands down what controllers there are, and makes the groups of supervisors and of
    /// content. Nothing in the tree gets huge pages of hugetlbfs where the kernel counts them: a limit of the whole tree
    /// costs no container anything. Repeatable.
    ///
    /// # Errors
    /// With the folder or file that cannot be made or written.
    pub fn create(parent: &Path, agent: &ContainerId) -> Result<Self, CgroupError> {
        let ours = parent.join("argosy");
        let tree = Self {
            root: ours.join(agent.as_str()),
        };
        let with_its_own = [&CONTROLLERS[..], &[OF_THE_TREE]].concat();
        hand_down(parent, &with_its_own)?;
        make(&ours)?;
        hand_down(&ours, &with_its_own)?;
        make(&tree.root)?;
        refuse_huge_pages(&tree.root)?;
        hand_down(&tree.root, &CONTROLLERS)?;
        make(&tree.supervisors())?;
        make(&tree.content())?;
        limit_content(&tree.content())?;
        Ok(tree)
    }

    /// One that another process has made.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
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

    /// The group of what fetches, pulls and unpacks.
    #[must_use]
    pub fn content(&self) -> PathBuf {
        let mut path = self.root.clone().into_os_string();
        path.push(CONTENT);
        path.into()
    }

    /// A container's group. It need not exist.
    #[must_use]
    pub fn group(&self, id: &ContainerId) -> Group {
        Group::at(&self.root.join(id.as_str()))
    }

    /// Which controllers containers of this tree would lack for these limits.
    ///
    /// # Errors
    /// If the tree is gone or cannot be read.
    pub fn missing(&self, limits: &Limits) -> Result<Missing, CgroupError> {
        Ok(limits.missing(&read_controllers(&self.supervisors())?))
    }

    /// Keeps so much memory, in bytes, for the containers of the tree: as much as their `memory_low_bytes` together,
    /// since a group protects what is below it only as far as it is protected itself.
    ///
    /// # Errors
    /// If the host has no memory controller, or the tree is gone.
    pub fn protect(&self, memory_bytes: u64) -> Result<(), CgroupError> {
        write(self.root.join("memory.low"), &memory_bytes.to_string())?;
        let ours = self.root.parent().expect("a tree is made in ours");
        let unreadable = |source| CgroupError::Read {
            path: ours.to_owned(),
            source,
        };
        // Other agents of this host have their trees beside it. One that comes in between writes the sum anew.
        let mut sum: u64 = 0;
        for entry in fs::read_dir(ours).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.is_dir() {
                let text = read(path.join("memory.low"))?;
                sum = sum.saturating_add(text.trim().parse().unwrap_or(u64::MAX));
            }
        }
        write(ours.join("memory.low"), &sum.to_string())
    }

    /// The containers that have a group now, in order of their names.
    ///
    /// # Errors
    /// If the tree is gone or cannot be read.
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
    ///
    /// # Errors
    /// If anything still lives in it.
    pub fn remove(&self) -> Result<(), CgroupError> {
        remove_folder(&self.supervisors())?;
        remove_folder(&self.content())?;
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

/// Lets the children of `group` use what it has of these controllers. One that the kernel will not hand down (a
/// group that holds processes, say) is then missing below, and reported as such.
fn hand_down(group: &Path, controllers: &[&str]) -> Result<(), CgroupError> {
    let present = read_controllers(group)?;
    for controller in controllers {
        if present.iter().any(|name| name == controller) {
            let _ = fs::write(
                group.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
    }
    Ok(())
}

/// Where there is a controller for it.
fn limit_content(group: &Path) -> Result<(), CgroupError> {
    for (name, value) in CONTENT_LIMITS {
        let path = group.join(name);
        if path.exists() {
            write(path, value)?;
        }
    }
    Ok(())
}

/// Of every size, those that are reserved included. Without the controller there are no such files.
fn refuse_huge_pages(group: &Path) -> Result<(), CgroupError> {
    let unreadable = |source| CgroupError::Read {
        path: group.to_owned(),
        source,
    };
    for entry in fs::read_dir(group).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("hugetlb.") && name.ends_with(".max") {
            write(entry.path(), "0")?;
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
        fs::write(parent.path().join("cgroup.controllers"), "rdma memory\n").unwrap();
        hand_down(parent.path(), &CONTROLLERS).unwrap();
        let written = fs::read_to_string(parent.path().join("cgroup.subtree_control")).unwrap();
        assert_eq!(written, "+memory");
    }

    #[test]
    fn huge_pages_of_every_size_are_refused() {
        let group = tempfile::tempdir().unwrap();
        let path = |name: &str| group.path().join(name);
        let limits = ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max", "hugetlb.1GB.max"];
        for name in limits.iter().chain(&["hugetlb.2MB.current", "memory.max"]) {
            fs::write(path(name), "max\n").unwrap();
        }
        refuse_huge_pages(group.path()).unwrap();
        for name in limits {
            assert_eq!(fs::read_to_string(path(name)).unwrap(), "0", "{name}");
        }
        for name in ["hugetlb.2MB.current", "memory.max"] {
            assert_eq!(fs::read_to_string(path(name)).unwrap(), "max\n", "{name}");
        }
    }

    #[test]
    fn memory_is_kept_for_all_trees_together() {
        let parent = tempfile::tempdir().unwrap();
        let ours = parent.path().join("argosy");
        for (agent, low) in [("mine", "0\n"), ("other", "4096\n")] {
            fs::create_dir_all(ours.join(agent)).unwrap();
            fs::write(ours.join(agent).join("memory.low"), low).unwrap();
        }
        fs::write(ours.join("memory.low"), "0\n").unwrap();
        let root = ours.join("mine");
        let tree = Tree { root };
        tree.protect(8192).unwrap();
        tree.protect(8192).unwrap();
        let low = |group: &Path| fs::read_to_string(group.join("memory.low")).unwrap();
        assert_eq!(
            (low(tree.root()), low(&ours)),
            ("8192".into(), "12288".into())
        );
    }
}
