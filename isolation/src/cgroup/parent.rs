//! The group below which an agent creates its tree.

use std::path::{Path, PathBuf};

use argosy_host::ContainerId;

use super::files::{CgroupError, mount_point, read};

/// The group of the trees of agents whose own group is delegated: a slice of systemd, next to the
/// slice of the agent's unit.
pub(super) const SLICE: &str = "argosy.slice";
/// The attributes by which systemd marks a delegated group: for root of the host, and for others.
const DELEGATED: [&str; 2] = ["trusted.delegate", "user.delegate"];

/// Returns the group below which this process may create a tree: the mount point for root, else the
/// process's current group (which must be delegated to its user).
///
/// # Errors
/// If no cgroup2 is mounted, or `/proc` cannot be read.
pub fn default_parent() -> Result<PathBuf, CgroupError> {
    let mount = mount_point()?;
    if nix::unistd::geteuid().is_root() {
        return Ok(mount);
    }
    own_group(&mount)
}

/// Returns the group below which the tree of this agent is, or is to be created:
/// [`default_parent`], or a slice of systemd if this process is root in a delegated group. A tree
/// that exists stays where it is, since tasks may run in it.
///
/// # Errors
/// If no cgroup2 is mounted, or `/proc` cannot be read.
pub fn parent_of(agent: &ContainerId) -> Result<PathBuf, CgroupError> {
    let parent = default_parent()?;
    if !nix::unistd::geteuid().is_root() {
        return Ok(parent);
    }
    let is_delegated = is_delegated(&own_group(&parent)?);
    Ok(place(&parent, agent, is_delegated))
}

/// Returns the present group of this process.
fn own_group(mount: &Path) -> Result<PathBuf, CgroupError> {
    let groups = read("/proc/self/cgroup".into())?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    Ok(mount.join(own.unwrap_or_default()))
}

fn is_delegated(group: &Path) -> bool {
    let mut value = [0_u8; 8];
    DELEGATED.into_iter().any(|name| {
        let read = rustix::fs::getxattr(group, name, &mut value);
        read.is_ok_and(|length| value.get(..length) == Some(b"1"))
    })
}

fn place(mount: &Path, agent: &ContainerId, is_delegated: bool) -> PathBuf {
    let slice = mount.join(SLICE);
    let has_tree = |parent: &Path| parent.join("argosy").join(agent.as_str()).is_dir();
    match has_tree(&slice) || (is_delegated && !has_tree(mount)) {
        true => slice,
        false => mount.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_tree_is_in_a_slice_only_if_the_agent_is_delegated_and_never_moves() {
        let agent = ContainerId::new("agent-1f").unwrap();
        for existing in [None, Some(""), Some(SLICE)] {
            for is_delegated in [false, true] {
                let mount = tempfile::tempdir().unwrap();
                if let Some(parent) = existing {
                    fs::create_dir_all(mount.path().join(parent).join("argosy/agent-1f")).unwrap();
                }
                // The tree of another agent does not count.
                fs::create_dir_all(mount.path().join("argosy/agent-2f")).unwrap();
                let expected = existing.unwrap_or(if is_delegated { SLICE } else { "" });
                assert_eq!(
                    place(mount.path(), &agent, is_delegated),
                    mount.path().join(expected)
                );
            }
        }
    }

    #[test]
    fn only_a_marked_group_is_delegated() {
        let group = tempfile::tempdir().unwrap();
        assert!(!is_delegated(group.path()));
        let mark = |value: &[u8]| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(group.path(), "user.delegate", value, flags).unwrap();
        };
        mark(b"0");
        assert!(!is_delegated(group.path()));
        mark(b"1");
        assert!(is_delegated(group.path()));
        assert!(!is_delegated(&group.path().join("absent")));
    }
}
