//! The newest copy of the facts, shared by readers that arrive at the same time.
//!
//! It is created when a reader requests it, within a turn of the owner, and dropped when it is old:
//! state that is shared with a copy must be copied when it changes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::inbox::{OwnerState, StateView};

/// Time for which a view is given to further readers. Each view has the revision that its reader
/// needs; the leader's private state, such as links, may be this old.
const MAX_AGE: Duration = Duration::from_millis(10);

/// The shared view. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedView(
    // A lock, because the owner creates the view and readers take it. It is held to copy or to set
    // a reference.
    Arc<Mutex<Option<Arc<StateView>>>>,
);

impl SharedView {
    /// Returns a view of the registry at log index `index` or later, if there is a recent one.
    pub(crate) fn recent(&self, index: u64, now: Instant) -> Option<Arc<StateView>> {
        let view = self.lock().clone();
        view.filter(|view| view.registry.applied() >= index && !view.is_older_than(MAX_AGE, now))
    }

    /// Returns a recent view, or a new one of these facts, in which `index` is applied.
    pub(crate) fn recent_or_new(&self, facts: &OwnerState<'_>, index: u64) -> Arc<StateView> {
        if let Some(view) = self.recent(index, Instant::now()) {
            return view;
        }
        let view = Arc::new(facts.view());
        let former = self.lock().replace(Arc::clone(&view));
        // Freed after the lock is released.
        drop(former);
        view
    }

    /// Drops the view if it is too old to be shared.
    pub(crate) fn expire(&self, now: Instant) {
        let former = {
            let mut view = self.lock();
            let is_old = |view: &Arc<StateView>| view.is_older_than(MAX_AGE, now);
            view.take_if(|view| is_old(view))
        };
        drop(former);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<StateView>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateView {
    fn is_older_than(&self, age: Duration, now: Instant) -> bool {
        now.duration_since(self.created_at) > age
    }
}

#[cfg(test)]
mod tests {
    use argosy_state::testing::World;
    use std::collections::VecDeque;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_view_is_shared_while_it_is_recent_and_new_enough() {
        let mut world = World::new();
        world.register("cpus:1");
        let views = SharedView::default();
        let failovers = VecDeque::new();
        let view = |world: &World, index| {
            let facts = OwnerState {
                registry: &world.registry,
                leader: None,
                now: world.now,
                failovers: &failovers,
            };
            views.recent_or_new(&facts, index)
        };
        let applied = world.registry.applied();
        let first = view(&world, applied);
        world.register("cpus:1");
        // A reader whose revision the first view has shares it.
        assert!(Arc::ptr_eq(&first, &view(&world, applied)));
        assert_eq!(first.registry.agents().len(), 1);
        let second = view(&world, world.registry.applied());
        assert_eq!(second.registry.agents().len(), 2);
        assert!(views.recent(applied, Instant::now()).is_some());
        tokio::time::advance(MAX_AGE * 2).await;
        assert!(views.recent(applied, Instant::now()).is_none());
        let third = view(&world, applied);
        assert!(!Arc::ptr_eq(&second, &third));
        // A copy without readers is not kept.
        views.expire(Instant::now());
        assert_eq!(Arc::strong_count(&third), 2);
        tokio::time::advance(MAX_AGE * 2).await;
        views.expire(Instant::now());
        assert_eq!(Arc::strong_count(&third), 1);
    }
}
