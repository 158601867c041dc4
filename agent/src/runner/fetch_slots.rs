//! The slots for tasks whose files are fetched at a time: of all frameworks, and of each one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use argosy_state::ids::FrameworkId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Maximum number of tasks whose files are fetched concurrently. It is high because a task that
/// waits for its server keeps its slot.
const SLOTS: usize = 128;
/// The maximum of one framework. So tasks of one whose servers are slow leave slots for others.
const SLOTS_OF_FRAMEWORK: usize = 32;

const NEVER_CLOSED: &str = "no limit is ever closed";

pub(super) struct FetchSlots {
    all: Semaphore,
    /// The limit of each framework, as long as a fetch uses it or waits for it. A lock, because all
    /// fetches share it.
    frameworks: Mutex<BTreeMap<FrameworkId, Weak<Semaphore>>>,
}

/// A slot, until it is dropped.
pub(super) struct FetchSlot<'a> {
    _of_framework: OwnedSemaphorePermit,
    _of_all: SemaphorePermit<'a>,
}

impl FetchSlots {
    pub(super) fn new() -> Self {
        Self {
            all: Semaphore::new(SLOTS),
            frameworks: Mutex::default(),
        }
    }

    /// Waits for a slot. First for one of the framework, so that its waiting tasks are not in the
    /// queue of all.
    pub(super) async fn acquire(&self, framework: FrameworkId) -> FetchSlot<'_> {
        let of_framework = self.of(framework).acquire_owned().await;
        FetchSlot {
            _of_framework: of_framework.expect(NEVER_CLOSED),
            _of_all: self.all.acquire().await.expect(NEVER_CLOSED),
        }
    }

    /// Returns the limit of a framework.
    fn of(&self, framework: FrameworkId) -> Arc<Semaphore> {
        let mut frameworks = self
            .frameworks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = frameworks.get(&framework).and_then(Weak::upgrade) {
            return used;
        }
        frameworks.retain(|_, limit| limit.strong_count() > 0);
        let limit = Arc::new(Semaphore::new(SLOTS_OF_FRAMEWORK));
        frameworks.insert(framework, Arc::downgrade(&limit));
        limit
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn one_framework_does_not_take_all_slots() {
        let slots = FetchSlots::new();
        let slow = "framework-1".parse::<FrameworkId>().unwrap();
        let other = "framework-2".parse::<FrameworkId>().unwrap();
        let take = |framework| slots.acquire(framework).now_or_never();
        let mut taken: Vec<_> = (0..SLOTS).filter_map(|_| take(slow)).collect();
        assert_eq!(taken.len(), SLOTS_OF_FRAMEWORK);
        assert!(take(other).is_some());
        taken.pop();
        taken.extend(take(slow));
        assert_eq!(taken.len(), SLOTS_OF_FRAMEWORK);
        assert!(take(slow).is_none());
        drop(taken);
        assert!(take(other).is_some());
        assert_eq!(
            slots.frameworks.lock().unwrap().len(),
            1,
            "the others are unused"
        );
    }
}
