//! Removal of a container's resources, retried until it succeeds, and starts that wait for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use argosy_proto::trace;
use argosy_state::ids::TaskKey;
use tokio::sync::SetOnce;
use tokio::time::Instant;

use super::handles::ContainerControl;
use super::{REMOVAL_TIMEOUT, RETRY_DELAY, Runner, RunnerState};
use crate::core::{ContainerName, Input};

/// The number of known removals from which the oldest completed ones are forgotten.
const KNOWN_REMOVALS: usize = 1_000;

/// The completion of one removal.
pub(super) type Removal = Arc<SetOnce<()>>;

/// The removals of containers and groups, for the starts that wait for them. A completed one stays
/// known for a while: the core may not know yet that it is complete.
#[derive(Debug, Default)]
pub(super) struct Removals {
    by_name: BTreeMap<ContainerName, Removal>,
    oldest_first: VecDeque<ContainerName>,
}

impl Removals {
    /// Returns the removal of a container or group, which may not have begun yet.
    pub(super) fn of(&mut self, name: ContainerName) -> Removal {
        if let Some(known) = self.by_name.get(&name) {
            return Removal::clone(known);
        }
        self.forget();
        let removal = Removal::default();
        self.by_name.insert(name, Removal::clone(&removal));
        self.oldest_first.push_back(name);
        removal
    }

    /// Forgets up to two of the oldest removals that are complete, or that no task performs or
    /// waits for.
    fn forget(&mut self) {
        for _ in 0..2 {
            if self.oldest_first.len() < KNOWN_REMOVALS {
                return;
            }
            let Some(oldest) = self.oldest_first.pop_front() else {
                return;
            };
            let removal = self.by_name.get(&oldest);
            let is_open =
                |removal: &Removal| !removal.initialized() && Arc::strong_count(removal) > 1;
            if removal.is_some_and(is_open) {
                self.oldest_first.push_back(oldest);
            } else {
                self.by_name.remove(&oldest);
            }
        }
    }
}

/// Waits until these containers are removed. One that cannot be removed delays a start, but does
/// not prevent it: what it still holds is the reason of a failure then.
pub(super) async fn wait_for(removals: &[Removal]) {
    let all = async {
        for removal in removals {
            removal.wait().await;
        }
    };
    let _ = tokio::time::timeout(REMOVAL_TIMEOUT, all).await;
}

/// Completes a removal.
pub(super) fn complete(removal: &Removal) {
    // A repetition has no effect.
    let _ = removal.set(());
}

impl Runner {
    /// Removes a container, after its fetch and its preparation.
    pub(super) fn destroy(&mut self, name: ContainerName, key: TaskKey) {
        let control = self.controls.forget(name.instance);
        let preparation = self.starts.forget(name.instance);
        self.probes.forget(name.instance);
        self.meter.end(name.instance);
        self.ended.count();
        self.limit_updates.forget(name.instance);
        self.cancel_fetch(name.instance);
        let fetch = self.fetches.remove(&name.instance);
        let removal = self.removals.of(name);
        let shared = self.shared.clone();
        self.spawn(async move {
            if let Some(fetch) = fetch {
                // Resources that it has acquired are released below.
                fetch.wait_for_step().await;
            }
            if let Some(preparation) = preparation {
                // Files that it has created are removed below; held resources are dropped here.
                drop(preparation.await);
            }
            remove(&shared, name, &key, control.as_deref()).await;
            complete(&removal);
            shared.report(Input::Destroyed { name }).await;
        });
    }
}

/// Releases all resources that were ever acquired in a container's name. `control` is that of a
/// container which this agent has watched.
pub(super) async fn remove(
    shared: &Arc<RunnerState>,
    name: ContainerName,
    key: &TaskKey,
    control: Option<&ContainerControl>,
) {
    let began = Instant::now();
    loop {
        let worker = shared.clone();
        let slot = shared.removal_slots.acquire().await;
        let is_ended = control.is_some_and(ContainerControl::is_ended);
        let remove = trace::inherited(move || worker.remove(name, is_ended));
        let removed = tokio::task::spawn_blocking(remove).await;
        // A removal that waits for its retry gives its slot to others.
        drop(slot);
        let removed = match removed.expect("removing a container never panics") {
            Ok(()) => shared.cni.detach(name).await,
            Err(why) => Err(why),
        };
        match removed {
            Ok(()) => {
                let took = metrics::histogram!("argosy_agent_destroy_duration_seconds");
                return took.record(began.elapsed());
            }
            Err(why) => {
                tracing::warn!(container = %name, task = %key, why, "a container cannot be removed yet");
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(order: usize) -> ContainerName {
        format!("1-{order}-1").parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_waits_for_each_removal_and_not_for_ever() {
        let mut removals = Removals::default();
        let (first, second) = (removals.of(name(1)), removals.of(name(2)));
        let began = Instant::now();
        complete(&first);
        let waiting = [removals.of(name(1)), removals.of(name(2))];
        let ends = async {
            tokio::time::sleep(RETRY_DELAY).await;
            complete(&second);
        };
        tokio::join!(wait_for(&waiting), ends);
        assert_eq!(began.elapsed(), RETRY_DELAY);
        wait_for(&[removals.of(name(3))]).await;
        assert_eq!(began.elapsed(), RETRY_DELAY + REMOVAL_TIMEOUT);
    }

    #[test]
    fn the_newest_removals_and_those_in_progress_are_remembered() {
        let mut removals = Removals::default();
        let in_progress = removals.of(name(1));
        // A start has waited for this one in vain.
        drop(removals.of(name(2)));
        for order in 3..5 * KNOWN_REMOVALS {
            complete(&removals.of(name(order)));
        }
        assert!(removals.by_name.len() <= KNOWN_REMOVALS);
        assert_eq!(removals.by_name.len(), removals.oldest_first.len());
        assert!(Arc::ptr_eq(&removals.of(name(1)), &in_progress));
        assert!(!removals.by_name.contains_key(&name(2)));
        let newest = removals.of(name(5 * KNOWN_REMOVALS - 1));
        assert!(newest.initialized());
    }
}
