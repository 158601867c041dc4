//! Starts under way, and how they are called off.
//!
//! A start waits for its network's plugins and for a slot, is prepared, and is requested from the launcher. Called off
//! before the request it is not made at all; behind it the container's start is voided, unless its supervisor has
//! claimed it by then. In each case the end comes as of any other start.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use argosy_isolation::{Container, crash};
use argosy_proto::v1;
use tokio_util::sync::CancellationToken;

use super::{Runner, Shared, watching};
use crate::core::{ContainerName, Input, Instance, Refusal, Start};

/// The starts of containers that are not known to have ended.
#[derive(Debug, Default)]
pub(super) struct Starts(HashMap<Instance, Starting>);

#[derive(Debug)]
struct Starting {
    name: ContainerName,
    cancelled: CancellationToken,
}

impl Starts {
    fn add(&mut self, name: ContainerName) -> CancellationToken {
        let cancelled = CancellationToken::new();
        let starting = Starting {
            name,
            cancelled: cancelled.clone(),
        };
        self.0.insert(name.instance, starting);
        cancelled
    }

    /// The container will be removed.
    pub(super) fn forget(&mut self, instance: Instance) {
        self.0.remove(&instance);
    }
}

impl Runner {
    pub(super) fn start(&mut self, start: Start) {
        let name = start.name;
        let instance = name.instance;
        self.fetches.remove(&instance);
        let control = self.controls.add(instance);
        let cancelled = self.starts.add(name);
        let shared = self.shared.clone();
        self.spawn(async move {
            let started = Instant::now();
            let made = shared.clone().make(start, cancelled.clone()).await;
            metrics::histogram!("argosy_agent_launch_duration_seconds", "step" => "start")
                .record(started.elapsed().as_secs_f64());
            match made {
                Ok(container) => watching::watch(&shared, name, container, &control).await,
                Err(refusal) => {
                    control.close();
                    if !cancelled.is_cancelled() {
                        let failures = "argosy_agent_launch_failures_total";
                        metrics::counter!(failures, "step" => "start").increment(1);
                    }
                    shared.tell(Input::NotStarted { instance, refusal }).await;
                }
            }
        });
    }

    pub(super) fn cancel_start(&self, instance: Instance) {
        let Some(Starting { name, cancelled }) = self.starts.0.get(&instance) else {
            return;
        };
        // First, so that a start which is not voided below has not been requested.
        cancelled.cancel();
        if let Some(control) = self.controls.get(instance) {
            control.call_off();
        }
        let (shared, name) = (self.shared.clone(), *name);
        self.spawn(async move {
            let void = move || shared.broker.void(name);
            let voided = tokio::task::spawn_blocking(void).await;
            if let Err(why) = voided.expect("voiding a start never panics") {
                tracing::warn!(container = %name, why, "a start cannot be voided; it is killed when it runs");
            }
        });
    }
}

impl Shared {
    /// Makes a container, once its plugins have made its network.
    async fn make(
        self: Arc<Self>,
        start: Start,
        cancelled: CancellationToken,
    ) -> Result<Container, Refusal> {
        let plugged = self.plugged.plug(&start, self.settings.isolation).await?;
        crash::passed("launch.plugged");
        let _slot = tokio::select! {
            biased;
            () = cancelled.cancelled() => return Err(called_off()),
            slot = self.slots.acquire() => slot,
        };
        let worker = Arc::clone(&self);
        let launch = move || worker.launch(&start, plugged, &cancelled);
        let made = tokio::task::spawn_blocking(launch).await;
        made.expect("making a container never panics")
    }
}

/// What becomes of a start that is called off before it was requested.
pub(super) fn called_off() -> Refusal {
    Refusal {
        reason: v1::Reason::KilledDuringLaunch,
        text: "killed before its command was started".to_owned(),
    }
}
