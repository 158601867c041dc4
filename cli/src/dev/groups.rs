//! Cgroup trees of the agents: found while the agents run, removed when all their processes have
//! ended.
//!
//! An agent keeps its tree, since its tasks outlive it. Only the removal of the whole cluster
//! removes the tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use argosy_isolation::{Cgroup, ProcessId, cgroup};

/// Time for the processes of a cgroup to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the tree of each agent: the parent of its launcher's cgroup.
pub(super) fn trees(agents: &[ProcessId]) -> Vec<PathBuf> {
    let Ok(mount) = cgroup::mount_point() else {
        return Vec::new();
    };
    let mut trees: Vec<_> = agents
        .iter()
        .flat_map(|agent| descendants(agent.pid))
        .filter_map(|child| {
            let groups = fs::read_to_string(format!("/proc/{child}/cgroup")).ok()?;
            tree_in(&groups, &mount)
        })
        .collect();
    trees.sort();
    trees.dedup();
    trees
}

/// Returns the processes below an agent, the launcher among them. The launcher of an agent without
/// root privileges is a child of its broker's spawner.
fn descendants(agent: i32) -> Vec<i32> {
    let mut found = children(agent);
    for _ in 0..2 {
        let deeper: Vec<_> = found.iter().flat_map(|child| children(*child)).collect();
        found.extend(deeper);
    }
    found
}

fn children(pid: i32) -> Vec<i32> {
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
    let ours = group.file_name()? == "supervisors" && tree.parent()?.file_name()? == "argosy";
    ours.then(|| tree.to_owned())
}

/// Kills the remaining processes in the trees, and removes the trees.
pub(super) fn remove(trees: &[PathBuf]) -> anyhow::Result<()> {
    for tree in trees {
        let failed = || format!("cannot remove the cgroup {}", tree.display());
        if !tree.exists() {
            continue;
        }
        for entry in fs::read_dir(tree).with_context(failed)? {
            let path = entry.with_context(failed)?.path();
            if path.is_dir() {
                Cgroup::at(&path)
                    .remove(EXIT_TIMEOUT)
                    .with_context(failed)?;
            }
        }
        fs::remove_dir(tree).with_context(failed)?;
        if let Some(all) = tree.parent() {
            // It stays while another agent of this host has its tree there.
            let _ = fs::remove_dir(all);
        }
    }
    Ok(())
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
}
