//! Starts in progress, and their cancellation.
//!
//! A start waits for its network's plugins and for a slot, is prepared, and is requested from the
//! launcher. A plain one is prepared while its order is being synced; nothing is requested until
//! the order is durable. A start that is cancelled before the request is never requested. After the
//! request the container's state directory records the cancellation, unless its supervisor has
//! claimed the container by then. In each case the end is reported as that of any other start.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use argosy_host::crash_point;
use argosy_isolation::Container;
use argosy_proto::trace;
use argosy_state::task::{Code, Explanation, Reason};
use metrics::Counter;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::description::{self, LaunchParts, PreparedLaunch};
use super::handles::ContainerControl;
use super::launch_failures::{self, LaunchStep};
use super::removing::{self, Removal};
use super::requests::ContainerStart;
use super::{Runner, RunnerState, cni, container_task, task_secrets};
use crate::core::{ContainerName, CreateError, Input, Instance};

/// The result of a preparation: the prepared start, or the reason why it is impossible.
type PreparedStart = oneshot::Receiver<Result<PreparedLaunch, CreateError>>;

/// The starts of containers that are not known to have ended.
#[derive(Default)]
pub(super) struct PendingStarts {
    pending: HashMap<Instance, PendingStart>,
    /// Prepared starts whose orders were not known to be durable.
    prepared: HashMap<Instance, PreparedStart>,
    started: StartedInstances,
}

/// Instances whose starts are remembered. More than run on one host at the same time.
const STARTED_INSTANCES: usize = 100_000;

/// The instances that this process has started, to detect a defect: a task that is started twice.
/// It is independent of the core, which must prevent that.
struct StartedInstances {
    known: HashSet<Instance>,
    oldest_first: VecDeque<Instance>,
    repeated: Counter,
}

impl Default for StartedInstances {
    fn default() -> Self {
        Self {
            known: HashSet::new(),
            oldest_first: VecDeque::new(),
            // It exists with 0 from the start: an increase is only seen after a first sample.
            repeated: metrics::counter!("argosy_agent_repeated_starts_total"),
        }
    }
}

impl StartedInstances {
    /// Adds an instance. Returns whether it was started before.
    fn is_repeated(&mut self, instance: Instance) -> bool {
        if !self.known.insert(instance) {
            return true;
        }
        self.oldest_first.push_back(instance);
        if self.oldest_first.len() > STARTED_INSTANCES
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.known.remove(&oldest);
        }
        false
    }
}

#[derive(Debug)]
struct PendingStart {
    name: ContainerName,
    cancelled: CancellationToken,
}

impl PendingStarts {
    pub(super) fn new() -> Self {
        launch_failures::register();
        Self::default()
    }

    fn add(&mut self, name: ContainerName) -> CancellationToken {
        let cancelled = CancellationToken::new();
        let starting = PendingStart {
            name,
            cancelled: cancelled.clone(),
        };
        self.pending.insert(name.instance, starting);
        cancelled
    }

    /// Forgets a start whose container will be removed, after its preparation is complete.
    pub(super) fn forget(&mut self, instance: Instance) -> Option<PreparedStart> {
        self.pending.remove(&instance);
        self.prepared.remove(&instance)
    }
}

impl Runner {
    /// Prepares a start before its order is durable: nothing is requested from the launcher.
    pub(super) fn prepare(&mut self, start: ContainerStart) {
        let task = start.launch.spec.as_ref();
        let has_secrets = task.is_some_and(|task| task_secrets::names(task).next().is_some());
        let names_user = task.is_some_and(description::names_host_user);
        let waits = has_secrets || names_user || !start.predecessors.is_empty();
        if waits || cni::cni_network(&start).is_some() {
            // Plugins create its network first, the leader sends its secrets, a directory service
            // is asked for its user, or other containers are removed. Each may take long.
            return;
        }
        // If starts are queued, preparations of later ones would only delay the first.
        let Ok(slot) = self.shared.slots.clone().try_acquire_owned() else {
            return;
        };
        let (sender, prepared) = oneshot::channel();
        self.starts.prepared.insert(start.name.instance, prepared);
        let shared = self.shared.clone();
        self.threads.spawn_blocking(trace::inherited(move || {
            // Only the fetch of an image could be cancelled.
            let never = CancellationToken::new();
            let task = start.launch.spec.as_ref();
            // No database is asked for it.
            let user = task.map(|task| description::user(task, shared.settings.isolation));
            let made = user.transpose().and_then(|user| {
                let (user, plugged) = (user.flatten(), None);
                description::prepare(&shared, &start, LaunchParts { user, plugged }, &never)
            });
            drop(slot);
            // The receiver is missing only when the agent stops.
            let _ = sender.send(made);
        }));
    }

    pub(super) fn start(&mut self, start: ContainerStart) {
        let name = start.name;
        let instance = name.instance;
        if self.starts.started.is_repeated(instance) {
            self.starts.started.repeated.increment(1);
            tracing::error!(container = %name, task = %start.key, "the task was started twice: a defect of the agent");
        }
        self.fetches.remove(&instance);
        let control = self.controls.add(instance);
        let preparation = self.starts.prepared.remove(&instance);
        let cancelled = self.starts.add(name);
        let predecessors = start.predecessors.iter();
        let removals: Vec<_> = predecessors.map(|name| self.removals.of(*name)).collect();
        let shared = self.shared.clone();
        self.spawn(async move {
            let started = Instant::now();
            let made = shared
                .clone()
                .create(
                    start,
                    (removals, preparation),
                    control.clone(),
                    cancelled.clone(),
                )
                .await;
            metrics::histogram!("argosy_agent_launch_duration_seconds", "step" => "start")
                .record(started.elapsed().as_secs_f64());
            match made {
                Ok(container) => container_task::watch(&shared, name, container, &control).await,
                Err(refusal) => {
                    control.close();
                    if !cancelled.is_cancelled() {
                        launch_failures::count(LaunchStep::Start, &refusal);
                    }
                    shared.report(Input::NotStarted { instance, refusal }).await;
                }
            }
        });
    }

    pub(super) fn cancel_start(&self, instance: Instance) {
        let Some(PendingStart { name, cancelled }) = self.starts.pending.get(&instance) else {
            return;
        };
        // First, so that a start which is not cancelled below has not been requested.
        cancelled.cancel();
        if let Some(control) = self.controls.get(instance) {
            control.cancel_start();
        }
        let (shared, name) = (self.shared.clone(), *name);
        self.spawn(async move {
            let void = move || shared.broker.void(name);
            let voided = tokio::task::spawn_blocking(void).await;
            if let Err(why) = voided.expect("cancelling a start never panics") {
                tracing::warn!(container = %name, why, "a start cannot be cancelled; the task is killed when it runs");
            }
        });
    }
}

impl RunnerState {
    /// Creates a container, once its predecessors are removed, its user is known, and its plugins
    /// have created its network.
    async fn create(
        self: Arc<Self>,
        mut start: ContainerStart,
        (removals, preparation): (Vec<Removal>, Option<PreparedStart>),
        control: Arc<ContainerControl>,
        cancelled: CancellationToken,
    ) -> Result<Container, CreateError> {
        let prepared = match preparation {
            Some(preparation) => preparation.await.ok().transpose()?,
            None => None,
        };
        tokio::select! {
            biased;
            () = cancelled.cancelled() => return Err(start_cancelled()),
            () = removing::wait_for(&removals) => {}
        }
        // Before it has a slot: other starts do not wait for this user.
        let looked_up = async {
            match &prepared {
                Some(_) => Ok(None),
                None => self.start_user(&start).await,
            }
        };
        let user = tokio::select! {
            biased;
            () = cancelled.cancelled() => return Err(start_cancelled()),
            user = looked_up => user?,
        };
        start.secrets = self.secrets_of(&start, &cancelled).await?;
        let plugged = self.cni.attach(&start, self.settings.isolation).await?;
        crash_point!("launch.plugged");
        let _slot = tokio::select! {
            biased;
            () = cancelled.cancelled() => return Err(start_cancelled()),
            slot = self.slots.acquire() => slot,
        };
        let worker = Arc::clone(&self);
        let parts = LaunchParts { user, plugged };
        let launch = move || worker.launch(&start, (prepared, parts), &control, &cancelled);
        let launch = trace::inherited(launch);
        let made = tokio::task::spawn_blocking(launch).await;
        made.expect("making a container never panics")
    }
}

/// Returns the outcome of a start that was cancelled before it was requested.
pub(super) fn start_cancelled() -> CreateError {
    CreateError {
        reason: Reason::KilledDuringLaunch,
        why: Explanation::of(Code::KilledBeforeStart, &[]),
    }
}

#[cfg(test)]
mod tests {
    use argosy_state::ids::{AgentId, OrderIndex};

    use super::*;

    fn instance(order: u64) -> Instance {
        let (agent, order) = (AgentId(1), OrderIndex(order));
        Instance { agent, order }
    }

    #[test]
    fn a_repeated_start_is_detected_and_memory_is_bounded() {
        let mut started = StartedInstances::default();
        let last = STARTED_INSTANCES as u64 + 10;
        for order in 1..=last {
            assert!(!started.is_repeated(instance(order)));
        }
        assert!(started.is_repeated(instance(last)));
        assert!(started.is_repeated(instance(last)));
        assert!(started.is_repeated(instance(11)));
        assert_eq!(started.known.len(), STARTED_INSTANCES);
        assert_eq!(started.oldest_first.len(), STARTED_INSTANCES);
        let other = Instance {
            agent: AgentId(2),
            order: OrderIndex(last),
        };
        assert!(!started.is_repeated(other));
    }
}
