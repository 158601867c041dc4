//! Removal of a container's resources, retried until it succeeds.

use std::sync::Arc;

use argosy_proto::trace;
use argosy_state::ids::TaskKey;
use tokio::time::Instant;

use super::handles::ContainerControl;
use super::{RETRY_DELAY, Runner, RunnerState};
use crate::core::{ContainerName, Input};

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
