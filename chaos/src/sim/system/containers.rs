//! The containers of an agent on a simulated machine. It carries out the effects of the agent's
//! core, and reports the events of the machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use argosy_agent::core::{
    ContainerEffect, ContainerName, ContainerStart, Input, Instance, LaunchOrder,
    RecoveredContainer, UnappliedLimits, checks,
};
use argosy_agent::{ContainerRuntime, EventSender, wire};
use argosy_proto::v1;
use argosy_state::ids::{OrderIndex, TaskKey};
use argosy_state::task::{CheckKind, TaskLimits};
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::conversation::{self, ExecutorChannel, ExecutorConnection};
use super::machine::executors::instance;
use super::machine::{ContainerLimits, ContainerState, SimMachine};
use crate::history::{AgentFact, OrderAction};
use crate::sim::run::{SimContext, now_ms};

/// The containers as one incarnation of the agent's process has them.
pub(super) struct SimContainers {
    machine: SimMachine,
    notes: SimContext,
    events: EventSender,
    /// The wakers of containers' watchers, used after a request.
    wakers: BTreeMap<Instance, (ContainerName, Arc<Notify>)>,
    fetches: BTreeMap<Instance, AbortHandle>,
    /// The channels to connected executors.
    channels: BTreeMap<Instance, ExecutorChannel>,
    /// The number of streams of executors.
    streams: Arc<AtomicU64>,
}

impl SimContainers {
    pub(super) fn new(
        machine: SimMachine,
        notes: SimContext,
        events: EventSender,
        known: &[ContainerName],
    ) -> Self {
        machine.end_orphans(known, now_ms());
        Self {
            machine,
            notes,
            events,
            wakers: BTreeMap::new(),
            fetches: BTreeMap::new(),
            channels: BTreeMap::new(),
            streams: Arc::default(),
        }
    }

    /// Records that a launch is acted on: it must be on the disk, and so must its epoch.
    fn note_start(&self, start: &ContainerStart) {
        let Instance { agent, order } = start.name.instance;
        let is_executor = start.launch.spec.executor.is_some();
        if !is_executor {
            return self.note_launch(start.name.instance, start.name.run);
        }
        let contents = self.machine.synced();
        if !contents.facts.executors.contains_key(&start.name.instance) {
            let order = order.0;
            let message = format!(
                "StaleLeaderFencing: {agent} begins an executor for order {order}, and has not stored that"
            );
            self.notes.violation(message);
        }
    }

    /// Records that a task is started without its files.
    fn report_unprepared(&self, start: &ContainerStart) {
        let (name, host) = (start.name, &self.machine.name);
        let rule = if start.group.is_some() {
            "GroupAtomicity: "
        } else {
            ""
        };
        let message = format!("{rule}{name} is started on {host} before its files are there");
        self.notes.violation(message);
    }

    fn note_launch(&self, instance: Instance, run: u64) {
        let contents = self.machine.synced();
        let epoch = self.machine.stored_epoch(&contents);
        let Instance { agent, order } = instance;
        let Some(task) = contents.facts.tasks.get(&instance) else {
            return self.notes.violation(format!(
                "StaleLeaderFencing: {agent} acts on order {}, which is not on its disk",
                order.0
            ));
        };
        if !self.machine.note_launch(instance, run) {
            return;
        }
        let fact = AgentFact::OrderTaken {
            agent,
            epoch,
            order,
            action: OrderAction::Launch,
            task: Some(task.key.clone()),
            repeated: false,
        };
        self.notes.recorder.observe(&*self.machine.name, fact);
    }

    fn listen(&mut self, name: ContainerName) {
        let (machine, events) = (self.machine.clone(), self.events.clone());
        let (talk, ear) = ExecutorConnection::new(machine, events, name, self.streams.clone());
        self.channels.insert(name.instance, ear);
        tokio::spawn(talk.run());
    }

    /// Passes a message to an executor. A launch that it delivers is acted on.
    fn send_to_executor(&mut self, executor: Instance, connection: u64, message: v1::ToExecutor) {
        if let Some(launch) = conversation::launch_in(&message) {
            let instance = instance(executor, launch);
            // A new stream sends it again.
            if !self.machine.has_launched(instance) {
                let run = self.machine.synced().facts.identity.run;
                self.note_launch(instance, run);
            }
        }
        if let Some(ear) = self.channels.get(&executor) {
            // If the send fails, the executor has ended, or its queue is full. Its next stream
            // sends everything again.
            let _ = ear.try_send((connection, message.message));
        }
    }

    /// Answers a check, sometimes after its timeout.
    fn probe(&self, instance: Instance, probe: checks::ProbeId, kind: &CheckKind) {
        let delay = Duration::from_millis(self.machine.between(0, 420));
        let (answer, events) = (self.machine.run_check(kind), self.events.clone());
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let reported = Input::ProbeFinished {
                instance,
                probe,
                answer,
            };
            events.send(reported).await;
        });
    }

    /// Changes limits. The agent may die before it receives the result.
    fn limit(&self, name: ContainerName, launch: &LaunchOrder, order: OrderIndex) {
        let outcome = match self.machine.limits_of(name.instance) {
            Some(ContainerLimits { pids, .. }) if self.machine.between(1, 100) <= 15 => {
                self.machine.note_refused_limits();
                Err(UnappliedLimits {
                    why: "the kernel would not".into(),
                    held: Some(TaskLimits {
                        pids,
                        ..TaskLimits::default()
                    }),
                })
            }
            Some(_) | None => {
                self.machine.limit(name, launch, order);
                Ok(())
            }
        };
        let delay = Duration::from_millis(self.machine.between(0, 20));
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let limited = Input::LimitsApplied {
                instance: name.instance,
                order,
                outcome,
            };
            events.send(limited).await;
        });
    }

    fn destroy(&mut self, name: ContainerName) {
        self.wakers.remove(&name.instance);
        let (machine, events) = (self.machine.clone(), self.events.clone());
        let delay = Duration::from_millis(self.machine.between(1, 30));
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            machine.destroy(name, now_ms());
            events.send(Input::Destroyed { name }).await;
        });
    }

    fn watcher(&mut self, name: ContainerName) -> ContainerWatcher {
        let wish = Arc::new(Notify::new());
        self.wakers.insert(name.instance, (name, wish.clone()));
        ContainerWatcher {
            machine: self.machine.clone(),
            events: self.events.clone(),
            name,
            waker: wish,
        }
    }
}

impl SimContainers {
    fn fetch(&mut self, start: &ContainerStart) {
        let instance = start.name.instance;
        self.note_start(start);
        let events = self.events.clone();
        let delay = Duration::from_millis(self.machine.between(0, 15));
        let fetching = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let result = Ok(());
            events.send(Input::Fetched { instance, result }).await;
        });
        self.fetches.insert(instance, fetching.abort_handle());
    }

    /// Starts a container. A launch with files to fetch was acted on when the fetch began.
    fn start(&mut self, start: &ContainerStart) {
        match self.fetches.get(&start.name.instance) {
            None => self.note_start(start),
            Some(fetching) if !fetching.is_finished() => self.report_unprepared(start),
            Some(_) => {}
        }
        self.machine.prepare(start, now_ms());
        tokio::spawn(self.watcher(start.name).watch(false));
    }
}

impl ContainerRuntime for SimContainers {
    fn perform(&mut self, effect: ContainerEffect) {
        match effect {
            ContainerEffect::Fetch(start) => self.fetch(&start),
            ContainerEffect::CancelFetch(instance) => {
                if let Some(fetching) = self.fetches.remove(&instance) {
                    fetching.abort();
                }
            }
            // The simulation prepares nothing before the start.
            ContainerEffect::Prepare(_) => {}
            ContainerEffect::Start(start) => self.start(&start),
            // No simulated start needs a secret.
            ContainerEffect::DeliverSecrets { .. } => {}
            // Starts here are never late enough to be cancelled.
            ContainerEffect::CancelStart(_) => {}
            ContainerEffect::Find { name, key } => {
                tokio::spawn(self.watcher(name).find(key));
            }
            ContainerEffect::Kill { instance, grace_ms } => {
                if let Some((name, wish)) = self.wakers.get(&instance) {
                    self.machine.kill(*name, now_ms(), grace_ms);
                    wish.notify_one();
                }
            }
            ContainerEffect::Renew { instance, stop_at } => {
                if let Some((name, wish)) = self.wakers.get(&instance) {
                    self.machine.renew(*name, stop_at);
                    wish.notify_one();
                }
            }
            ContainerEffect::Probe {
                instance,
                probe,
                kind,
                ..
            } => self.probe(instance, probe, &kind),
            ContainerEffect::Limit {
                name,
                launch,
                order: Some(order),
                ..
            } => self.limit(name, &launch, order),
            // The late answer has no effect.
            ContainerEffect::CancelProbe { .. } => {}
            // The simulated disk has room for everything.
            ContainerEffect::Measure { .. } => {}
            ContainerEffect::Destroy { name, .. } => self.destroy(name),
            // A simulated host has no resources that containers share.
            ContainerEffect::DestroyGroup { name } => {
                self.machine.note_group_destroyed(name);
                self.destroy(name);
            }
            ContainerEffect::Listen(name) => self.listen(name),
            ContainerEffect::StopListening(name) => drop(self.channels.remove(&name.instance)),
            ContainerEffect::SendToExecutor {
                instance,
                connection,
                message,
            } => self.send_to_executor(instance, connection, wire::to_executor(*message)),
            // The usage of an executor's tasks is checked task by task.
            ContainerEffect::Limit { order: None, .. } => {}
        }
    }

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// The watcher of one container's task in one incarnation of the agent.
struct ContainerWatcher {
    machine: SimMachine,
    events: EventSender,
    name: ContainerName,
    waker: Arc<Notify>,
}

impl ContainerWatcher {
    async fn find(self, key: TaskKey) {
        let delay = Duration::from_millis(self.machine.between(0, 10));
        tokio::time::sleep(delay).await;
        let found = self.machine.find(self.name, now_ms());
        let runs = matches!(found, RecoveredContainer::Running(_));
        if runs {
            self.machine.note_adopted(self.name, &key);
        }
        let instance = self.name.instance;
        self.events
            .send(Input::ContainerFound {
                instance,
                container: found,
            })
            .await;
        if runs {
            self.watch(true).await;
        }
    }

    /// Reports the start, unless it is known, and the end.
    async fn watch(self, mut is_known: bool) {
        let instance = self.name.instance;
        loop {
            let next_ms = match self.machine.inspect(self.name, now_ms()) {
                ContainerState::Preparing { at_ms } => Some(at_ms),
                ContainerState::Running { fact, until_ms } => {
                    if !is_known {
                        is_known = true;
                        self.events.send(Input::Started { instance, fact }).await;
                        continue;
                    }
                    until_ms
                }
                ContainerState::Ended(ended) => {
                    return self
                        .events
                        .send(Input::Exited {
                            instance,
                            exit: ended,
                        })
                        .await;
                }
                ContainerState::Gone => return,
            };
            let pause = next_ms.map_or(Duration::from_secs(3_600), |at_ms| {
                Duration::from_millis(at_ms.saturating_sub(now_ms()).max(1))
            });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.waker.notified() => {}
            }
        }
    }
}
