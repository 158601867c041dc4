//! The cgroup tree of an agent, found through the processes that the agent has started.

use std::fs;
use std::path::PathBuf;

use argosy_isolation::cgroup;

/// Returns the cgroup tree of the agent with this process: the parent of its launcher's cgroup.
pub(crate) fn tree_of(agent_pid: u32) -> Option<PathBuf> {
    let mount = cgroup::mount_point().ok()?;
    let mut below = children(agent_pid);
    // If the agent has dropped root, its launcher is a child of the broker's spawner.
    for _ in 0..2 {
        let deeper: Vec<_> = below.iter().flat_map(|child| children(*child)).collect();
        below.extend(deeper);
    }
    below.into_iter().find_map(|child| {
        let groups = fs::read_to_string(format!("/proc/{child}/cgroup")).ok()?;
        let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let group = mount.join(own);
        let tree = group.parent()?;
        let is_tree =
            group.file_name()? == "supervisors" && tree.parent()?.file_name()? == "argosy";
        is_tree.then(|| tree.to_owned())
    })
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
            let numbers = list
                .split_ascii_whitespace()
                .filter_map(|word| word.parse().ok());
            numbers.collect::<Vec<u32>>()
        })
        .collect()
}
