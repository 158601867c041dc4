//! Paths of hosts in descriptions of tasks, and of image layouts.
//!
//! Masters compare them with rules, and agents with what the operator permits, both by this
//! function, so that no spelling of a path means one thing to the master and another to the agent.

use std::path::{Component, Path};

/// Returns an absolute path without `.`, `..` and repeated slashes. It is compared as text: links
/// on the host are not followed.
pub fn without_detours(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => parts.extend(part.to_str()),
            Component::ParentDir => drop(parts.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_paths_are_compared_without_detours() {
        for (path, expected) in [
            ("/data", "/data"),
            ("/data/", "/data"),
            ("//data/./a//b", "/data/a/b"),
            ("/data/../etc", "/etc"),
            ("/../..", "/"),
            ("/", "/"),
        ] {
            assert_eq!(without_detours(path), expected, "{path}");
        }
    }
}
