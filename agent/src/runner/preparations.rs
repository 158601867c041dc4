//! The progress of fetches for tasks that are not started yet, for the agent's API.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argosy_content::fetcher::FetchProgress;
use tokio::sync::watch;

use crate::core::Instance;

/// The progress of all present fetches. Clones share it.
///
/// A lock, because the API reads it while fetches begin and end. The progress itself is counted
/// without it.
#[derive(Clone, Default)]
pub(crate) struct Preparations(Arc<Mutex<BTreeMap<Instance, watch::Receiver<FetchProgress>>>>);

/// A listed fetch; it is listed until this is dropped.
pub(crate) struct ListedPreparation {
    all: Preparations,
    instance: Instance,
}

impl Preparations {
    /// Lists a fetch of an instance, which has no other at the same time.
    pub(crate) fn add(
        &self,
        instance: Instance,
        progress: watch::Receiver<FetchProgress>,
    ) -> ListedPreparation {
        self.listed().insert(instance, progress);
        ListedPreparation {
            all: self.clone(),
            instance,
        }
    }

    /// Returns the present progress; `None` if nothing is being fetched for the instance.
    pub(crate) fn of(&self, instance: Instance) -> Option<FetchProgress> {
        let progress = self.listed().get(&instance)?.borrow().clone();
        Some(progress)
    }

    fn listed(&self) -> MutexGuard<'_, BTreeMap<Instance, watch::Receiver<FetchProgress>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ListedPreparation {
    fn drop(&mut self) {
        self.all.listed().remove(&self.instance);
    }
}

#[cfg(test)]
mod tests {
    use argosy_content::fetcher::ItemKind;
    use argosy_state::ids::{AgentId, OrderIndex};

    use super::*;

    #[test]
    fn a_fetch_is_listed_with_its_present_progress_until_it_ends() {
        let instance = |order| Instance {
            agent: AgentId(1),
            order: OrderIndex(order),
        };
        let all = Preparations::default();
        let (meter, seen) = watch::channel(FetchProgress::default());
        let listed = all.add(instance(1), seen);
        assert_eq!(all.of(instance(1)), Some(FetchProgress::default()));
        let image = FetchProgress::of(ItemKind::Image("nginx".to_owned()));
        meter.send_modify(|now| {
            *now = image.clone();
            now.done_bytes = 7;
        });
        assert_eq!(all.of(instance(1)).unwrap().done_bytes, 7);
        assert_eq!(all.of(instance(2)), None);
        drop(listed);
        assert_eq!(all.of(instance(1)), None);
    }
}
