//! cgroup v2: the agent's tree, its groups, and their removal.
//!
//! ```text
//! <mount>/argosy/<agent>/              a CgroupTree; holds no process itself
//! <mount>/argosy/<agent>/supervisors/  the launcher and every supervisor
//! <mount>/argosy/<agent>/<container>/  init and command of one container, for cgroup.kill
//! <mount>/argosy/<agent>.content/      processes that fetch, pull and unpack, with limits
//! ```
//! `<mount>` is the mount point of cgroup2, or the slice of systemd that `parent` chooses. Never
//! touches a group outside the tree that it was given, except that slice.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use argosy_host::ContainerId;
use argosy_host::container_id::SUPERVISORS;

use super::files::{CgroupError, read, read_controllers, remove_dir, write};
use super::group::Cgroup;
use super::parent::SLICE;
use crate::spec::limits::{Limits, MissingControllers};

/// The name suffix of the group of the content processes. It is a sibling of the tree: tasks and
/// content processes may not reach the same servers.
const CONTENT: &str = ".content";
/// The limits that all content processes share, whatever they download: 1 GiB of memory without
/// swap, 128 threads, the time of one processor, and half of the CPU weight that each container
/// gets by default.
const CONTENT_LIMITS: [(&str, &str); 5] = [
    ("memory.max", "1073741824"),
    ("memory.swap.max", "0"),
    ("pids.max", "128"),
    ("cpu.weight", "50"),
    ("cpu.max", "100000 100000"),
];
/// The controllers that containers get where the host has them.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "memory", "pids", "io"];
/// The controller that only the tree's root group gets: containers do not need it.
const TREE_CONTROLLER: &str = "hugetlb";

/// The groups of one agent.
#[derive(Debug, Clone)]
pub struct CgroupTree {
    root: PathBuf,
}

impl CgroupTree {
    /// Creates `<parent>/argosy/<agent>`, delegates the available controllers, and creates the
    /// groups of supervisors and of content. Where the kernel counts huge pages of hugetlbfs, the
    /// tree gets none: a limit on the whole tree adds no cost per container. Idempotent.
    ///
    /// # Errors
    /// With the directory or file that cannot be created or written.
    pub fn create(parent: &Path, agent: &ContainerId) -> Result<Self, CgroupError> {
        let ours = parent.join("argosy");
        let tree = Self {
            root: ours.join(agent.as_str()),
        };
        let with_its_own = [&CONTROLLERS[..], &[TREE_CONTROLLER]].concat();
        if let Some(above) = above_slice(parent) {
            // systemd creates it only if its unit was started.
            delegate(above, &with_its_own)?;
            make(parent)?;
        }
        delegate(parent, &with_its_own)?;
        make(&ours)?;
        delegate(&ours, &with_its_own)?;
        make(&tree.root)?;
        refuse_huge_pages(&tree.root)?;
        delegate(&tree.root, &CONTROLLERS)?;
        make(&tree.supervisors())?;
        make(&tree.content())?;
        limit_content(&tree.content())?;
        Ok(tree)
    }

    /// Opens a tree that another process has created.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Returns the tree's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the group of the launcher, and so of the supervisors.
    #[must_use]
    pub fn supervisors(&self) -> PathBuf {
        self.root.join(SUPERVISORS)
    }

    /// Returns the group of the processes that fetch, pull and unpack.
    #[must_use]
    pub fn content(&self) -> PathBuf {
        content_of(&self.root)
    }

    /// Returns a container's group. It need not exist.
    #[must_use]
    pub fn group(&self, id: &ContainerId) -> Cgroup {
        Cgroup::at(&self.root.join(id.as_str()))
    }

    /// Returns the controllers that containers of this tree would lack for these limits.
    ///
    /// # Errors
    /// If the tree does not exist or cannot be read.
    pub fn missing(&self, limits: &Limits) -> Result<MissingControllers, CgroupError> {
        Ok(limits.missing(&read_controllers(&self.supervisors())?))
    }

    /// Protects so much memory, in bytes, for the containers of the tree: the sum of their
    /// `memory_low_bytes`, because a group protects its children only as far as it is protected
    /// itself.
    ///
    /// # Errors
    /// If the host has no memory controller, or the tree does not exist.
    pub fn protect(&self, memory_bytes: u64) -> Result<(), CgroupError> {
        write(self.root.join("memory.low"), &memory_bytes.to_string())?;
        let ours = self.root.parent().expect("a tree is made in ours");
        let unreadable = |source| CgroupError::Read {
            path: ours.to_owned(),
            source,
        };
        // Other agents of this host have sibling trees. An agent that starts concurrently writes
        // the sum again.
        let mut sum: u64 = 0;
        for entry in fs::read_dir(ours).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.is_dir() {
                let text = read(path.join("memory.low"))?;
                sum = sum.saturating_add(text.trim().parse().unwrap_or(u64::MAX));
            }
        }
        write(ours.join("memory.low"), &sum.to_string())?;
        match ours.parent() {
            Some(slice) if above_slice(slice).is_some() => {
                write(slice.join("memory.low"), &sum.to_string())
            }
            _ => Ok(()),
        }
    }

    /// Returns the containers that have a group now, in order of their names.
    ///
    /// # Errors
    /// If the tree does not exist or cannot be read.
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
    /// If a process is still in it.
    pub fn remove(&self) -> Result<(), CgroupError> {
        remove_dir(&self.supervisors())?;
        remove_dir(&self.content())?;
        remove_dir(&self.root)?;
        if let Some(ours) = self.root.parent() {
            // The directory stays while another agent of this host has its tree there.
            let _ = fs::remove_dir(ours);
        }
        Ok(())
    }
}

/// Returns the group above the slice of agents; none if `group` is another group.
fn above_slice(group: &Path) -> Option<&Path> {
    group
        .parent()
        .filter(|_| group.file_name().is_some_and(|name| name == SLICE))
}

/// Returns the group of content processes of the tree with this root.
pub(super) fn content_of(root: &Path) -> PathBuf {
    let mut path = root.as_os_str().to_owned();
    path.push(CONTENT);
    path.into()
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

/// Delegates these controllers of `group` to its children. A controller that the kernel refuses to
/// delegate (for example in a group that holds processes) is then missing below, and reported as
/// missing.
fn delegate(group: &Path, controllers: &[&str]) -> Result<(), CgroupError> {
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

/// Applies each limit whose controller exists.
fn limit_content(group: &Path) -> Result<(), CgroupError> {
    for (name, value) in CONTENT_LIMITS {
        let path = group.join(name);
        if path.exists() {
            write(path, value)?;
        }
    }
    Ok(())
}

/// Covers huge pages of every size, including reserved ones. Without the controller these files do
/// not exist.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_controllers_are_delegated() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("cgroup.controllers"), "rdma memory\n").unwrap();
        delegate(parent.path(), &CONTROLLERS).unwrap();
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
    fn memory_is_protected_for_all_trees_together_and_for_their_slice() {
        let mount = tempfile::tempdir().unwrap();
        let slice = mount.path().join(SLICE);
        fs::create_dir(&slice).unwrap();
        for group in [mount.path(), &slice] {
            fs::write(group.join("memory.low"), "0\n").unwrap();
        }
        protect_in(mount.path());
        let low = |group: &Path| fs::read_to_string(group.join("memory.low")).unwrap();
        assert_eq!(low(mount.path()), "0\n", "the root of the host");
        protect_in(&slice);
        assert_eq!(
            (low(mount.path()), low(&slice)),
            ("0\n".into(), "12288".into())
        );
    }

    fn protect_in(parent: &Path) {
        let ours = parent.join("argosy");
        for (agent, low) in [("mine", "0\n"), ("other", "4096\n")] {
            fs::create_dir_all(ours.join(agent)).unwrap();
            fs::write(ours.join(agent).join("memory.low"), low).unwrap();
        }
        fs::write(ours.join("memory.low"), "0\n").unwrap();
        let root = ours.join("mine");
        let tree = CgroupTree { root };
        tree.protect(8192).unwrap();
        tree.protect(8192).unwrap();
        let low = |group: &Path| fs::read_to_string(group.join("memory.low")).unwrap();
        assert_eq!(
            (low(tree.root()), low(&ours)),
            ("8192".into(), "12288".into())
        );
    }
}
