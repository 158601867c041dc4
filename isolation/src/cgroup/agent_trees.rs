//! The cgroup tree of an agent from outside: found while the agent runs, removed when it has ended.
//!
//! An agent keeps its tree, since its tasks outlive it. Only the removal of a whole cluster removes
//! the tree. A killed agent can no longer report its tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argosy_host::container_id::SUPERVISORS;

use super::files::{CgroupError, mount_point};
use super::group::Cgroup;
use super::tree::content_of;

/// Returns the tree of the agent with this process: the parent of its launcher's group.
#[must_use]
pub fn agent_tree(agent_pid: u32) -> Option<PathBuf> {
    let mount = mount_point().ok()?;
    descendants(agent_pid).into_iter().find_map(|child| {
        let groups = fs::read_to_string(format!("/proc/{child}/cgroup")).ok()?;
        tree_in(&groups, &mount)
    })
}

/// Kills all processes in the tree of an agent that has ended, and removes the tree. It is no error
/// if there is none.
///
/// # Errors
/// If processes do not end within `timeout`, or a group cannot be removed.
pub fn remove_agent_tree(tree: &Path, timeout: Duration) -> Result<(), CgroupError> {
    for group in directories_in(tree) {
        Cgroup::at(&group).remove(timeout)?;
    }
    for group in [content_of(tree), tree.to_owned()] {
        if group.exists() {
            Cgroup::at(&group).remove(timeout)?;
        }
    }
    if let Some(all) = tree.parent() {
        // It stays while another agent of this host has its tree there.
        let _ = fs::remove_dir(all);
    }
    Ok(())
}

/// Returns the processes below an agent, the launcher among them. The launcher of an agent without
/// root privileges is a child of its broker's spawner.
fn descendants(agent: u32) -> Vec<u32> {
    let mut found = children(agent);
    for _ in 0..2 {
        let deeper: Vec<_> = found.iter().flat_map(|child| children(*child)).collect();
        found.extend(deeper);
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let lists = threads
        .map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| {
            list.split_ascii_whitespace()
                .filter_map(|word| word.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Maps `…/argosy/<agent>/supervisors` to the tree `…/argosy/<agent>`. Other paths do not belong to
/// an agent.
fn tree_in(groups: &str, mount: &Path) -> Option<PathBuf> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = mount.join(own);
    let tree = group.parent()?;
    let ours = group.file_name()? == SUPERVISORS && tree.parent()?.file_name()? == "argosy";
    ours.then(|| tree.to_owned())
}

fn directories_in(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_cgroup_of_a_launcher_identifies_a_cgroup_tree() {
        let mount = Path::new("/sys/fs/cgroup/unified");
        let groups = "3:cpu:/\n0::/argosy/agent-1f/supervisors\n";
        assert_eq!(tree_in(groups, mount), Some(mount.join("argosy/agent-1f")));
        assert_eq!(tree_in("0::/\n", mount), None);
        assert_eq!(tree_in("0::/system.slice/x.service\n", mount), None);
        assert_eq!(tree_in("0::/other/agent-1f/supervisors\n", mount), None);
    }

    #[test]
    fn a_tree_that_does_not_exist_needs_no_removal() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("argosy/agent-1f");
        remove_agent_tree(&tree, Duration::ZERO).unwrap();
    }
}
