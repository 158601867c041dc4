//! Where an agent keeps what: the one drawing of its directory.
//!
//! ```text
//! <directory>/                      of one agent, on a local disk
//!   lock                            held by the living agent; its process id inside
//!   journal                         orders taken, handles, updates: see `journal`
//!   journal.next                    a compacted journal in the making; worth nothing until renamed
//!   containers/<container>/         hand-off between agents and a supervisor: see argosy_isolation
//!   executors/<container>/          socket and token by which an executor meets its agent; the container sees it
//!   sandboxes/<framework>/<task>/<container>/
//!                                   working directory of one instance: fetched files, stdout, stderr
//!   sandboxes/<framework>/<task>/<container>.output
//!                                   which bytes of stdout and stderr are in which file, once they were rotated
//!   disks/<container>/              the file system of a container's own, if it has one: see argosy_isolation
//!   groups/<framework>/<group>/<agent>-<order>-0/
//!                                   the folder that the tasks of a group share, named by the order of the first
//!   cache/<digest of URI>           fetched files that are kept for other tasks; the time is that of the last use
//!   images/                         images and their layers, and which containers hold them: see argosy_content
//!   network-prefix6                 what the IPv6 addresses of its containers begin with, if it was generated
//!   probe/                          of a container that tells whether this host gives containers overlays
//!   cni/<container>.json            what CNI plugins were told for a container, to have them take it back
//! ```
//! `<container>` is `<agent>-<order>-<life>`: it never names two starts, even when an agent registers
//! anew and its orders count from 1 again.

use std::path::{Path, PathBuf};

use argosy_state::ids::{FrameworkId, GroupId, TaskKey};

use crate::core::ContainerName;

/// The directory of one agent.
#[derive(Debug, Clone)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// The drawing, rooted at `directory`.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            root: directory.to_owned(),
        }
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Held by the living agent.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The generated IPv6 prefix of containers.
    #[must_use]
    pub fn network_prefix6(&self) -> PathBuf {
        self.root.join("network-prefix6")
    }

    /// The journal.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// A compacted journal in the making.
    #[must_use]
    pub fn journal_next(&self) -> PathBuf {
        self.root.join("journal.next")
    }

    /// All hand-off folders.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// The hand-off folder of one container.
    #[must_use]
    pub fn container(&self, name: ContainerName) -> PathBuf {
        self.containers().join(name.to_string())
    }

    /// Where executors meet their agent.
    #[must_use]
    pub fn executor_places(&self) -> PathBuf {
        self.root.join("executors")
    }

    /// Where the executor in this container meets its agent.
    #[must_use]
    pub fn executor(&self, name: ContainerName) -> PathBuf {
        self.executor_places().join(name.to_string())
    }

    /// All sandboxes.
    #[must_use]
    pub fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    /// The sandboxes of all instances of one task.
    #[must_use]
    pub fn task(&self, key: &TaskKey) -> PathBuf {
        self.sandboxes()
            .join(key.framework.to_string())
            .join(key.task.as_str())
    }

    /// The sandbox of one container.
    #[must_use]
    pub fn sandbox(&self, key: &TaskKey, name: ContainerName) -> PathBuf {
        self.task(key).join(name.to_string())
    }

    /// Beside the sandbox of one container, where it cannot reach: which bytes of its output are in which file.
    #[must_use]
    pub fn output_record(&self, key: &TaskKey, name: ContainerName) -> PathBuf {
        self.task(key).join(format!("{name}.output"))
    }

    /// Of a container that tells whether this host gives containers overlays.
    #[must_use]
    pub fn probe(&self) -> PathBuf {
        self.root.join("probe")
    }

    /// All file systems of containers.
    #[must_use]
    pub fn disks(&self) -> PathBuf {
        self.root.join("disks")
    }

    /// The file system of one container.
    #[must_use]
    pub fn disk(&self, name: ContainerName) -> PathBuf {
        self.disks().join(name.to_string())
    }

    /// All folders of groups.
    #[must_use]
    pub fn groups(&self) -> PathBuf {
        self.root.join("groups")
    }

    /// The folder that the tasks of a group share.
    #[must_use]
    pub fn group(&self, framework: FrameworkId, group: &GroupId, name: ContainerName) -> PathBuf {
        self.groups()
            .join(framework.to_string())
            .join(group.as_str())
            .join(name.to_string())
    }

    /// Fetched files that are kept.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// A file for each container in a network of CNI plugins.
    #[must_use]
    pub fn cni_records(&self) -> PathBuf {
        self.root.join("cni")
    }

    /// All that is kept of images.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }
}
