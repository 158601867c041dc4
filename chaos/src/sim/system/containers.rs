//! The containers of an agent on a made-up machine: carries out what the agent's core wants, and tells it
//! what the machine says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use argosy_agent::core::{ContainerName, Effect, Found, Input, Instance, Start, checks};
use argosy_agent::{Containers, Teller};
use argosy_state::task::CheckKind;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::machine::{Look, Machine};
use crate::history::{AgentFact, OrderAction};
use crate::sim::run::{Notes, elapsed};

/// Simulated milliseconds, as this host counts them.
pub(super) fn now_ms() -> u64 {
    let elapsed = elapsed();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// As one life of the agent's process has them.
pub(super) struct Scripted {
    machine: Machine,
    notes: Notes,
    teller: Teller,
    /// Wakes who watches a container when something is wanted of it.
    wishes: BTreeMap<Instance, (ContainerName, Arc<Notify>)>,
    fetches: BTreeMap<Instance, AbortHandle>,
}

impl Scripted {
    pub(super) fn new(
        machine: Machine,
        notes: Notes,
        teller: Teller,
        known: &[ContainerName],
    ) -> Self {
        machine.end_orphans(known, now_ms());
        Self {
            machine,
            notes,
            teller,
            wishes: BTreeMap::new(),
            fetches: BTreeMap::new(),
        }
    }

    /// A launch is acted upon: it must be on the disk, and so must the reign that it came in.
    fn takes(&self, start: &Start) {
        let contents = self.machine.synced();
        let epoch = self.machine.stored_epoch(&contents);
        let Instance { agent, order } = start.name.instance;
        if !contents.facts.tasks.contains_key(&start.name.instance) {
            let words = format!(
                "F2: {agent} acts on order {}, which is not on its disk",
                order.0
            );
            self.notes.violation(words);
        }
        if !self.machine.takes(start.name) {
            return;
        }
        let fact = AgentFact::OrderTaken {
            agent,
            epoch,
            order,
            action: OrderAction::Launch,
            task: Some(start.key.clone()),
            repeated: false,
        };
        self.notes.recorder.observe(&*self.machine.name, fact);
    }

    /// Answers now and then later than anybody waits.
    fn look(&self, instance: Instance, look: checks::Look, kind: &CheckKind) {
        let takes = Duration::from_millis(self.machine.between(0, 420));
        let (answer, teller) = (self.machine.ask(kind), self.teller.clone());
        tokio::spawn(async move {
            tokio::time::sleep(takes).await;
            let told = Input::Looked {
                instance,
                look,
                answer,
            };
            teller.tell(told).await;
        });
    }

    fn destroy(&mut self, name: ContainerName) {
        self.wishes.remove(&name.instance);
        let (machine, teller) = (self.machine.clone(), self.teller.clone());
        let takes = Duration::from_millis(self.machine.between(1, 30));
        tokio::spawn(async move {
            tokio::time::sleep(takes).await;
            machine.destroy(name, now_ms());
            teller.tell(Input::Destroyed { name }).await;
        });
    }

    fn watcher(&mut self, name: ContainerName) -> Watcher {
        let wish = Arc::new(Notify::new());
        self.wishes.insert(name.instance, (name, wish.clone()));
        Watcher {
            machine: self.machine.clone(),
            teller: self.teller.clone(),
            name,
            wish,
        }
    }
}

impl Containers for Scripted {
    fn perform(&mut self, effect: Effect) -> Option<Effect> {
        match effect {
            Effect::Fetch(start) => {
                let instance = start.name.instance;
                self.takes(&start);
                let teller = self.teller.clone();
                let takes = Duration::from_millis(self.machine.between(0, 15));
                let fetching = tokio::spawn(async move {
                    tokio::time::sleep(takes).await;
                    let result = Ok(());
                    teller.tell(Input::Fetched { instance, result }).await;
                });
                self.fetches.insert(instance, fetching.abort_handle());
            }
            Effect::CancelFetch(instance) => {
                if let Some(fetching) = self.fetches.remove(&instance) {
                    fetching.abort();
                }
            }
            Effect::Start(start) => {
                // With files to fetch it is acted upon since then.
                if !self.fetches.contains_key(&start.name.instance) {
                    self.takes(&start);
                }
                self.machine.prepare(&start, now_ms());
                tokio::spawn(self.watcher(start.name).watch(false));
            }
            Effect::Find { name, .. } => {
                tokio::spawn(self.watcher(name).find());
            }
            Effect::Kill { instance, grace_ms } => {
                if let Some((name, wish)) = self.wishes.get(&instance) {
                    self.machine.kill(*name, now_ms(), grace_ms);
                    wish.notify_one();
                }
            }
            Effect::Renew { instance, stop_at } => {
                if let Some((name, wish)) = self.wishes.get(&instance) {
                    self.machine.renew(*name, stop_at);
                    wish.notify_one();
                }
            }
            Effect::Look {
                instance,
                look,
                kind,
                ..
            } => self.look(instance, look, &kind),
            // The answer changes nothing: nobody waits for it.
            Effect::StopLooking { .. } => {}
            // Its disk has room for all.
            Effect::Measure { .. } => {}
            Effect::Destroy { name, .. } => self.destroy(name),
            // A made-up host has nothing that containers share.
            Effect::DestroyGroup { name } => self.destroy(name),
            other => return Some(other),
        }
        None
    }

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// One container's task in one life of the agent.
struct Watcher {
    machine: Machine,
    teller: Teller,
    name: ContainerName,
    wish: Arc<Notify>,
}

impl Watcher {
    async fn find(self) {
        let takes = Duration::from_millis(self.machine.between(0, 10));
        tokio::time::sleep(takes).await;
        let found = self.machine.find(self.name, now_ms());
        let runs = matches!(found, Found::Running(_));
        if runs {
            self.machine.note_adopted(self.name);
        }
        let instance = self.name.instance;
        self.teller.tell(Input::Found { instance, found }).await;
        if runs {
            self.watch(true).await;
        }
    }

    /// Tells the start, unless it is known, and the end.
    async fn watch(self, mut is_known: bool) {
        let instance = self.name.instance;
        loop {
            let next_ms = match self.machine.look(self.name, now_ms()) {
                Look::Preparing { at_ms } => Some(at_ms),
                Look::Running { fact, until_ms } => {
                    if !is_known {
                        is_known = true;
                        self.teller.tell(Input::Started { instance, fact }).await;
                        continue;
                    }
                    until_ms
                }
                Look::Ended(ended) => {
                    return self.teller.tell(Input::Exited { instance, ended }).await;
                }
                Look::Gone => return,
            };
            let pause = next_ms.map_or(Duration::from_secs(3_600), |at_ms| {
                Duration::from_millis(at_ms.saturating_sub(now_ms()).max(1))
            });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wish.notified() => {}
            }
        }
    }
}
