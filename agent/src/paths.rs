//! Layout of an agent's directory, the only definition of its paths.
//!
//! ```text
//! <directory>/                      of one agent, on a local disk
//!   lock                            held by the running agent; contains its process id
//!   journal                         orders taken, handles, updates: see `journal`
//!   journal.next                    a compacted journal in progress; unused until it is renamed
//!   containers/<container>/         state directory shared by agents and a supervisor: see
//!                                   argosy_isolation
//!   executors/<container>/          socket and token of an executor; mounted in the container
//!   sandboxes/<framework>/<task>/<container>/
//!                                   working directory of one instance: fetched files, stdout, stderr
//!   sandboxes/<framework>/<task>/<container>.output
//!                                   map of rotated files to bytes of stdout and stderr
//!   sandboxes/<framework>/<task>/<container>.times
//!                                   when which bytes of stdout and stderr were written
//!   sandboxes/<framework>/<task>/<container>.logs
//!                                   marks that the sandbox was reduced to stdout and stderr
//!   disks/<container>/              dedicated file system of a container, if it has one: see
//!                                   argosy_isolation
//!   groups/<framework>/<group>/<agent>-<order>-0/
//!                                   directory that the tasks of a group share; the order is the first
//!   cache/<digest of URI>           fetch cache; the time of a file is that of its last use
//!   images/                         images, their layers, and the containers that hold them: see
//!                                   argosy_content
//!   adopt                           the restored cluster that the agent may follow
//!   audit/                          audit log: see argosy_host
//!   network-prefix6                 IPv6 prefix of its containers, if it was generated
//!   probe/                          the container that probes this host for overlay support
//!   cni/<container>.json            input of CNI plugins for a container, for its release
//! ```
//! `<container>` is `<agent>-<order>-<run>`: agent id, order, and number of the agent's run. It
//! never names two starts, even when an agent registers again and its orders count from 1 again.

use std::fs;
use std::path::{Path, PathBuf};

use argosy_host::ContainerId;
use argosy_host::audit::AuditSettings;
use argosy_isolation::output::times_path;
use argosy_state::ids::{FrameworkId, GroupId, TaskKey};
use sha2::{Digest, Sha256};

use crate::core::ContainerName;

/// The directory of one agent.
#[derive(Debug, Clone)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// Returns the layout with the root `directory`.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            root: directory.to_owned(),
        }
    }

    /// Returns the directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the name of the agent's cgroup tree: the same for every run of an agent on this
    /// directory, and different for every other directory.
    #[must_use]
    pub fn tree_name(&self) -> ContainerId {
        let root = fs::canonicalize(&self.root).unwrap_or_else(|_| self.root.clone());
        let hash = Sha256::digest(root.as_os_str().as_encoded_bytes());
        let digits: String = hash
            .iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        ContainerId::new(format!("agent-{digits}")).expect("hexadecimal digits make a name")
    }

    /// Returns the lock of the running agent.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Returns the file with the generated IPv6 prefix of containers.
    #[must_use]
    pub fn network_prefix6(&self) -> PathBuf {
        self.root.join("network-prefix6")
    }

    /// Returns the file that names the restored cluster that the agent may follow.
    #[must_use]
    pub fn adoption(&self) -> PathBuf {
        self.root.join("adopt")
    }

    /// Returns the directory of the audit log.
    #[must_use]
    pub fn audit(&self) -> PathBuf {
        self.root.join(AuditSettings::DIRECTORY)
    }

    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// Returns the compacted journal in progress.
    #[must_use]
    pub fn journal_next(&self) -> PathBuf {
        self.root.join("journal.next")
    }

    /// Returns the parent of all state directories.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// Returns the state directory of one container.
    #[must_use]
    pub fn container(&self, name: ContainerName) -> PathBuf {
        self.containers().join(name.to_string())
    }

    /// Returns the file with the numbers of a container's exclusive processors, as `2,3`.
    #[must_use]
    pub fn cpuset(&self, name: ContainerName) -> PathBuf {
        self.container(name).join("cores")
    }

    /// Returns the parent of the directories of executor sockets.
    #[must_use]
    pub fn executor_sockets(&self) -> PathBuf {
        self.root.join("executors")
    }

    /// Returns the directory with the socket of the executor in this container.
    #[must_use]
    pub fn executor(&self, name: ContainerName) -> PathBuf {
        self.executor_sockets().join(name.to_string())
    }

    /// Returns the parent of all sandboxes.
    #[must_use]
    pub fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    /// Returns the parent of the sandboxes of one task.
    #[must_use]
    pub fn task(&self, key: &TaskKey) -> PathBuf {
        self.sandboxes()
            .join(key.framework.to_string())
            .join(key.task.as_str())
    }

    /// Returns the sandbox of one container.
    #[must_use]
    pub fn sandbox(&self, key: &TaskKey, name: ContainerName) -> PathBuf {
        self.task(key).join(name.to_string())
    }

    /// Returns the record that maps rotated files of one container's output to offsets, next to its
    /// sandbox, where the task cannot access it.
    #[must_use]
    pub fn output_record(&self, key: &TaskKey, name: ContainerName) -> PathBuf {
        self.task(key).join(format!("{name}.output"))
    }

    /// Returns the record of the times at which one container's output was written, next to its
    /// sandbox.
    #[must_use]
    pub fn output_times(&self, key: &TaskKey, name: ContainerName) -> PathBuf {
        times_path(&self.output_record(key, name))
    }

    /// Returns the directory of the container that probes for overlay support.
    #[must_use]
    pub fn probe(&self) -> PathBuf {
        self.root.join("probe")
    }

    /// Returns the parent of all file systems of containers.
    #[must_use]
    pub fn disks(&self) -> PathBuf {
        self.root.join("disks")
    }

    /// Returns the file system of one container.
    #[must_use]
    pub fn disk(&self, name: ContainerName) -> PathBuf {
        self.disks().join(name.to_string())
    }

    /// Returns the parent of all group directories.
    #[must_use]
    pub fn groups(&self) -> PathBuf {
        self.root.join("groups")
    }

    /// Returns the directory that the tasks of a group share.
    #[must_use]
    pub fn group(&self, framework: FrameworkId, group: &GroupId, name: ContainerName) -> PathBuf {
        self.groups()
            .join(framework.to_string())
            .join(group.as_str())
            .join(name.to_string())
    }

    /// Returns the fetch cache.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Returns the directory with a file for each container with a CNI network.
    #[must_use]
    pub fn cni_records(&self) -> PathBuf {
        self.root.join("cni")
    }

    /// Returns the image store.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Returns the directory of the image store's layers.
    #[must_use]
    pub fn image_layers(&self) -> PathBuf {
        self.images().join("layers")
    }
}

/// Returns all sandboxes, or group directories: three levels of directories.
pub(crate) fn all_container_directories(path: &Path) -> Vec<(ContainerName, PathBuf)> {
    let frameworks = directories(path);
    let tasks = frameworks
        .iter()
        .flat_map(|framework| directories(framework));
    tasks
        .flat_map(|task| container_directories(&task))
        .collect()
}

/// Returns the subdirectories with a container's name.
pub(crate) fn container_directories(path: &Path) -> Vec<(ContainerName, PathBuf)> {
    let all = directories(path).into_iter();
    all.filter_map(|path| Some((path.file_name()?.to_str()?.parse().ok()?, path)))
        .collect()
}

/// Returns the subdirectories; none if the directory cannot be read.
pub(crate) fn directories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        // Of the entry itself: a link is no directory.
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
