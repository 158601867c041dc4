//! A copy of the registry for readers: it stays as it is while `apply` goes on, and costs constant time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use super::Registry;

/// The registry as it was after one entry. Clones share it.
///
/// It has every fact and index. What [`Registry::take_changes`] alone needs is left out.
#[derive(Debug, Clone, Default)]
pub struct Snapshot(Arc<Registry>);

impl Deref for Snapshot {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        &self.0
    }
}

impl Registry {
    /// A copy that shares its records with this registry. The next change of a record, and of an index entry, copies it
    /// with its path in the tree, as long as the snapshot is there.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(Arc::new(Self {
            applied: self.applied,
            time: self.time,
            cluster: self.cluster.clone(),
            agents: self.agents.clone(),
            weights: self.weights.clone(),
            frameworks: self.frameworks.clone(),
            tasks: self.tasks.clone(),
            answers: self.answers.clone(),
            operator_answers: self.operator_answers.clone(),
            finished_tasks: self.finished_tasks.clone(),
            finished_frameworks: self.finished_frameworks.clone(),
            index: self.index.clone(),
            changed: BTreeSet::new(),
            marks: BTreeMap::new(),
            digest: self.digest,
        }))
    }
}
