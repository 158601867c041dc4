//! Inventory of a host: processes, cgroups, mounts, namespaces, interfaces, loop devices, rule
//! tables. One is taken before a run and one after it. Objects that only the second one holds were
//! left behind.
//!
//! Taking an inventory reads the kernel and changes nothing. Comparing two is pure. A host also
//! runs other programs: a scope selects the objects that count.

mod inventory;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::history;

pub use inventory::{AuditError, take};

/// A kind of object that a host holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    Process,
    Cgroup,
    Mount,
    Namespace,
    Interface,
    LoopDevice,
    RuleTable,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "process",
            Self::Cgroup => "cgroup",
            Self::Mount => "mount",
            Self::Namespace => "namespace",
            Self::Interface => "interface",
            Self::LoopDevice => "loop device",
            Self::RuleTable => "table of rules",
        })
    }
}

/// The objects that a host held at one moment: by kind, the identity of each with its description.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// An identity never names two objects, even over time: a pid is paired with its start time.
    pub objects: BTreeMap<ObjectKind, BTreeMap<String, String>>,
}

/// The selection of objects that count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// Texts that mark an object as part of the run: a directory in a command line, an environment
    /// or a mount, or the beginning of a cgroup's or an interface's name. An empty list selects
    /// everything.
    pub markers: Vec<String>,
}

impl Scope {
    fn covers(&self, text: &str) -> bool {
        self.markers.is_empty() || self.markers.iter().any(|mark| text.contains(mark.as_str()))
    }
}

impl Inventory {
    /// Returns the number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.values().map(BTreeMap::len).sum()
    }

    /// Whether nothing was found, which is impossible on a running host.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the objects within the scope that exist now and not in `before`, one line each.
    #[must_use]
    pub fn leftovers(&self, before: &Self, scope: &Scope) -> Vec<String> {
        let mut left = BTreeSet::new();
        for (kind, things) in &self.objects {
            let known = before.objects.get(kind);
            for (identity, reported) in things {
                let is_new = known.is_none_or(|known| !known.contains_key(identity));
                if is_new && (scope.covers(identity) || scope.covers(reported)) {
                    left.insert(format!("{kind} {reported}"));
                }
            }
        }
        left.into_iter().collect()
    }

    /// Returns the comparison as an event of a history.
    #[must_use]
    pub fn compared(&self, before: &Self, scope: &Scope, place: &str) -> history::AuditFinding {
        history::AuditFinding::Leftovers {
            place: place.to_owned(),
            looked_at: self.len() as u64,
            leftovers: self.leftovers(before, scope),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(things: &[(ObjectKind, &str, &str)]) -> Inventory {
        let mut inventory = Inventory::default();
        for (kind, identity, reported) in things {
            let of_kind = inventory.objects.entry(*kind).or_default();
            of_kind.insert((*identity).to_owned(), (*reported).to_owned());
        }
        inventory
    }

    #[test]
    fn leftovers_are_new_objects_within_the_scope() {
        let before = inventory(&[
            (ObjectKind::Process, "7/100", "7 sh /run/x"),
            (ObjectKind::Mount, "1", "/run/x"),
        ]);
        let after = inventory(&[
            (ObjectKind::Process, "7/100", "7 sh /run/x"),
            (ObjectKind::Process, "7/900", "7 sleep /run/x"),
            (ObjectKind::Process, "8/900", "8 sleep /home"),
            (ObjectKind::Cgroup, "/run/x/1", "/run/x/1"),
        ]);
        let marks = vec!["/run/x".to_owned()];
        let left = after.leftovers(&before, &Scope { markers: marks });
        assert_eq!(left, ["cgroup /run/x/1", "process 7 sleep /run/x"]);
        assert_eq!(after.leftovers(&before, &Scope::default()).len(), 3);
        assert_eq!(
            before.leftovers(&before, &Scope::default()),
            Vec::<String>::new()
        );
    }

    #[test]
    fn processes_and_cgroup_directories_are_listed_until_they_are_gone() {
        let directory = tempfile::tempdir().unwrap();
        let mark = directory.path().to_string_lossy().into_owned();
        let scope = Scope {
            markers: vec![mark.clone()],
        };
        let before = take().unwrap();
        assert!(!before.is_empty() && before.objects.contains_key(&ObjectKind::Mount));
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .env("ARGOSY_SANDBOX", &mark)
            .spawn()
            .unwrap();
        let left = take().unwrap().leftovers(&before, &scope);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            left.len() == 1 && left[0].starts_with("process "),
            "{left:?}"
        );
        assert_eq!(
            take().unwrap().leftovers(&before, &scope),
            Vec::<String>::new()
        );
    }
}
