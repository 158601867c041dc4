//! The orphans whose files the garbage collection keeps.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::core::ContainerName;

/// The orphans that are not removed yet. Cheap to clone; all clones share them. A lock, since the
/// retries of their removal and the garbage collection are separate tasks.
#[derive(Debug, Clone, Default)]
pub(crate) struct RemainingOrphans(Arc<Mutex<BTreeSet<ContainerName>>>);

impl RemainingOrphans {
    /// Returns their names.
    pub(super) fn names(&self) -> BTreeSet<ContainerName> {
        self.lock().clone()
    }

    /// Replaces all of them.
    pub(crate) fn replace(&self, left: &BTreeSet<ContainerName>) {
        self.lock().clone_from(left);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<ContainerName>> {
        // No panic leaves the set half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
