//! The directory of one run, and the removal of everything that a run leaves behind, including one
//! whose process has ended.
//!
//! A run is identified by the process in its file `owner` and by a prefix of names. Only objects in
//! the directory, with the prefix, or in a namespace with the prefix, are touched.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use argosy_host::ProcessId;
use argosy_isolation::cgroup;
use nix::mount::{MntFlags, umount2};

use crate::leftovers::{EXIT_TIMEOUT, POLL_INTERVAL, is_alive, kill_all};
use crate::network;

/// Beginning of every name that a run assigns.
const NAME: &str = "argosy-chaos";

/// The reason why the directory of a run cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirectoryError {
    /// It cannot be created or written.
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
    /// The entry of this process in /proc cannot be read.
    #[error("cannot read /proc/self")]
    Own(#[source] io::Error),
}

#[derive(Debug, Clone)]
pub struct RunDirectory {
    path: PathBuf,
    prefix: String,
}

impl RunDirectory {
    /// Creates the directory of a new run in `base`.
    ///
    /// # Errors
    /// [`RunDirectoryError`]
    pub fn create(base: &Path) -> Result<Self, RunDirectoryError> {
        let own =
            ProcessId::of(std::process::id().cast_signed()).map_err(RunDirectoryError::Own)?;
        let prefix = format!("{NAME}-{}", own.pid);
        let directory = Self {
            path: base.join(&prefix),
            prefix,
        };
        let write = |path: &Path, source| RunDirectoryError::Write {
            path: path.to_owned(),
            source,
        };
        for path in [
            directory.path.clone(),
            directory.logs(),
            directory.history(),
            directory.shared(),
            directory.inputs(),
            directory.secrets(),
        ] {
            fs::create_dir_all(&path).map_err(|source| write(&path, source))?;
        }
        fs::set_permissions(directory.secrets(), fs::Permissions::from_mode(0o700))
            .map_err(|source| write(&directory.secrets(), source))?;
        // Tasks run as user `nobody` there.
        let all = fs::Permissions::from_mode(0o777);
        fs::set_permissions(directory.shared(), all)
            .map_err(|source| write(&directory.shared(), source))?;
        let owner = directory.path.join("owner");
        let text = format!("{} {}\n", own.pid, own.start_ticks);
        fs::write(&owner, text).map_err(|source| write(&owner, source))?;
        Ok(directory)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the prefix of the names of its namespaces.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    pub fn history(&self) -> PathBuf {
        self.path.join("history")
    }

    /// Returns the directory that tasks see. It contains the witness file and nothing else.
    pub fn shared(&self) -> PathBuf {
        self.path.join("shared")
    }

    /// Returns the directory of the images and files that tasks may use.
    pub fn inputs(&self) -> PathBuf {
        self.path.join("inputs")
    }

    /// Returns the directory of the secrets that tasks may use.
    pub fn secrets(&self) -> PathBuf {
        self.path.join("secrets")
    }

    /// Returns the data directory of a member.
    pub fn data(&self, member: &str) -> PathBuf {
        self.path.join("data").join(member)
    }

    /// Records the cgroup tree of an agent: its tasks may outlive everything else of the run.
    ///
    /// # Errors
    /// [`RunDirectoryError`]
    pub fn record_cgroup(&self, tree: &Path) -> Result<(), RunDirectoryError> {
        let path = self.path.join("trees");
        let mut known = self.cgroups();
        if known.iter().any(|one| one == tree) {
            return Ok(());
        }
        known.push(tree.to_owned());
        let lines = known.iter().map(|tree| format!("{}\n", tree.display()));
        fs::write(&path, lines.collect::<String>())
            .map_err(|source| RunDirectoryError::Write { path, source })
    }

    /// Returns the recorded trees.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let text = fs::read_to_string(self.path.join("trees")).unwrap_or_default();
        text.lines().map(PathBuf::from).collect()
    }

    /// Ends and removes everything of this run except the directory itself. Can be repeated.
    /// Returns what remains.
    pub fn clear(&self) -> Vec<String> {
        let mut left = Vec::new();
        let namespaces = network::namespaces(&format!("{}-", self.prefix));
        left.extend(kill_all_in(&namespaces));
        for tree in self.cgroups() {
            if let Err(error) = cgroup::remove_agent_tree(&tree, EXIT_TIMEOUT) {
                left.push(format!("cgroup {}: {error}", tree.display()));
            }
        }
        left.extend(kill_all_in(&namespaces));
        for mount in mounts_below(&self.path) {
            if let Err(errno) = umount2(&mount, MntFlags::MNT_DETACH) {
                left.push(format!("mount {}: {errno}", mount.display()));
            }
        }
        for namespace in namespaces {
            if let Err(error) = network::remove(&namespace) {
                left.push(format!("namespace {namespace}: {error}"));
            }
        }
        left
    }

    /// Removes the directory. Files to keep were copied before.
    pub fn remove(&self) {
        // A file that an ending process still writes may make a removal fail.
        for _ in 0..5 {
            if fs::remove_dir_all(&self.path).is_ok() || !self.path.exists() {
                return;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

/// Removes the leftovers in `base` of runs whose process has ended. Returns their names.
pub fn remove_stale(base: &Path) -> Vec<String> {
    let mut cleared = Vec::new();
    for path in directories_in(base) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let is_run = name
            .strip_prefix(NAME)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()));
        if !is_run || is_owner_alive(&path) {
            continue;
        }
        let directory = RunDirectory {
            prefix: name.to_owned(),
            path: path.clone(),
        };
        directory.clear();
        directory.remove();
        cleared.push(directory.prefix);
    }
    cleared
}

fn is_owner_alive(directory: &Path) -> bool {
    let text = fs::read_to_string(directory.join("owner")).unwrap_or_default();
    let mut words = text.split_ascii_whitespace();
    let pid = words.next().and_then(|word| word.parse().ok());
    let start_ticks = words.next().and_then(|word| word.parse().ok());
    match (pid, start_ticks) {
        (Some(pid), Some(start_ticks)) => is_alive(ProcessId { pid, start_ticks }),
        _ => false,
    }
}

/// Kills all processes in these namespaces except this one, until none is left. Returns those that
/// remain.
pub(crate) fn kill_all_in(namespaces: &[String]) -> Vec<String> {
    let identities: Vec<_> = namespaces
        .iter()
        .filter_map(|namespace| network::identity(namespace))
        .collect();
    kill_all(|pid| {
        let network = fs::metadata(format!("/proc/{pid}/ns/net"));
        network.is_ok_and(|network| identities.contains(&(network.dev(), network.ino())))
    })
}

fn directories_in(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

/// Returns the mount points below a directory, innermost first.
pub fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|mount| mount.starts_with(directory))
        .collect();
    found.sort_by_key(|mount| std::cmp::Reverse(mount.as_os_str().len()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_dead_owners_are_removed() {
        let base = tempfile::tempdir().unwrap();
        let living = RunDirectory::create(base.path()).unwrap();
        let dead = base.path().join("argosy-chaos-999999999");
        fs::create_dir_all(dead.join("logs")).unwrap();
        fs::write(dead.join("owner"), "999999999 1\n").unwrap();
        let other = base.path().join("argosy-chaos-findings");
        fs::create_dir_all(&other).unwrap();
        assert_eq!(remove_stale(base.path()), ["argosy-chaos-999999999"]);
        assert!(living.path().exists() && other.exists() && !dead.exists());
    }

    #[test]
    fn an_owner_with_a_reused_pid_is_dead() {
        let base = tempfile::tempdir().unwrap();
        let directory = RunDirectory::create(base.path()).unwrap();
        let own = std::process::id();
        fs::write(directory.path().join("owner"), format!("{own} 1\n")).unwrap();
        assert!(!is_owner_alive(directory.path()));
    }
}
