//! What can be seen of a host from outside: what its disk holds, and which processes are there.

use argosy_agent::core::{ContainerName, Instance};
use argosy_agent::journal;
use argosy_proto::v1;
use argosy_state::ids::{AgentId, Epoch, OrderIndex, TaskKey};

use super::{Container, Limited, Machine, Phase, pids_limit};
use crate::history::{AgentFact, TaskFact};
use crate::sim::system::world::COPY;

/// So much later than its time a task may still run: its agent may have been away until a moment ago.
const LATE_MS: u64 = 1_500;

impl Machine {
    /// What a power cut would leave of its journal.
    pub(in crate::sim::system) fn synced(&self) -> journal::Contents {
        match journal::read_synced(&self.disk) {
            Ok(contents) => contents,
            Err(why) => {
                let words = format!("the journal of {} cannot be read: {why}", self.name);
                self.inner().ledger.notes.violation(words);
                journal::Contents::default()
            }
        }
    }

    /// The id under which the cluster knows it, if it does.
    pub(in crate::sim::system) fn agent(&self) -> Option<AgentId> {
        self.synced().facts.identity.agent
    }

    /// The highest reign that its disk holds now; noted when it is another one than before.
    pub(in crate::sim::system) fn stored_epoch(&self, contents: &journal::Contents) -> Epoch {
        let identity = &contents.facts.identity;
        let epoch = identity.epoch;
        let mut inner = self.inner();
        let is_new = (inner.epoch, inner.epoch_of) != (epoch, identity.agent);
        if is_new && let Some(agent) = identity.agent {
            (inner.epoch, inner.epoch_of) = (epoch, identity.agent);
            // A copy of the disk is not the agent.
            if &*self.name == COPY {
                return epoch;
            }
            let fact = AgentFact::EpochStored { agent, epoch };
            inner.ledger.notes.recorder.observe(&*self.name, fact);
        }
        epoch
    }

    /// Notes that updates of a launch up to `number` were seen on its disk; returns up to which they were before,
    /// in whichever life of the agent.
    pub(in crate::sim::system) fn see_made(&self, instance: Instance, number: u64) -> u64 {
        let mut inner = self.inner();
        let newest = inner.made.entry(instance).or_default();
        let before = *newest;
        *newest = before.max(number);
        before
    }

    /// Its agent obeys a master.
    pub(in crate::sim::system) fn obeys(&self, now_ms: u64) {
        self.inner().obeyed_ms = now_ms;
    }

    /// When its agent obeyed a master last.
    pub(in crate::sim::system) fn obeyed_ms(&self) -> u64 {
        self.inner().obeyed_ms
    }

    /// The highest reign that was last seen on its disk.
    pub(in crate::sim::system) fn known_epoch(&self) -> Epoch {
        self.inner().epoch
    }

    /// Whether a launch is acted on for the first time, or again by the same life of the agent; a later life may
    /// go on with what never started.
    pub(in crate::sim::system) fn takes(&self, instance: Instance, life: u64) -> bool {
        let mut inner = self.inner();
        *inner.taken.entry(instance).or_insert(life) == life
    }

    /// Whether a launch was acted on.
    pub(in crate::sim::system) fn has_taken(&self, instance: Instance) -> bool {
        self.inner().taken.contains_key(&instance)
    }

    /// A former life has stored these launches: none that comes acts on them for the first time.
    pub(in crate::sim::system) fn had_stored<'a>(
        &self,
        launches: impl Iterator<Item = &'a Instance>,
    ) {
        let mut inner = self.inner();
        for instance in launches {
            inner.taken.entry(*instance).or_insert(0);
        }
    }

    /// Notes which processes are there.
    pub(in crate::sim::system) fn note_alive(&self) {
        let Some(agent) = self.agent() else {
            return;
        };
        let inner = self.inner();
        let boot_id = format!("{}-boot-{}", self.name, inner.boots);
        for process in inner.processes() {
            let fact = TaskFact::Alive {
                task: process.key.clone(),
                agent,
                pid: process.pid,
                start_time: process.since_ms,
                boot_id: boot_id.clone(),
                progress: Some(process.ran_ms),
            };
            inner.ledger.notes.recorder.observe(&*self.name, fact);
        }
    }

    /// A stream of an executor has broken off.
    pub(in crate::sim::system) fn note_stream(&self) {
        let inner = self.inner();
        inner.ledger.notes.count("streams of executors broken");
    }

    /// A container has other limits from now on.
    pub(in crate::sim::system) fn limit(
        &self,
        name: ContainerName,
        launch: &v1::LaunchOrder,
        order: OrderIndex,
    ) {
        if let Some(container) = self.inner().containers.get_mut(&name) {
            container.limited = Limited {
                pids: pids_limit(launch),
                order,
            };
        }
    }

    pub(in crate::sim::system) fn note_refused_limits(&self) {
        self.inner().ledger.notes.count("limits refused");
    }

    /// The limits of the container of a launch, if it has one that runs.
    pub(in crate::sim::system) fn limited_to(&self, instance: Instance) -> Option<Limited> {
        let inner = self.inner();
        let mut own = inner.containers.iter().filter(|(name, container)| {
            name.instance == instance && matches!(container.phase, Phase::Running { .. })
        });
        own.next().map(|(_, container)| container.limited)
    }

    /// Notes the tasks whose processes the agent of a new life ends as nobody's.
    pub(super) fn note_orphans(&self, is_orphan: impl Fn(&ContainerName) -> bool) {
        let Some(agent) = self.agent() else {
            return;
        };
        let inner = self.inner();
        let processes = inner.processes();
        for process in processes.filter(|process| is_orphan(&process.container)) {
            let task = process.key.clone();
            let fact = TaskFact::Orphaned { task, agent };
            inner.ledger.notes.recorder.observe(&*self.name, fact);
        }
    }

    /// Tasks that run although the time in which they had to complete is over.
    pub(in crate::sim::system) fn overdue(&self, now_ms: u64) -> Vec<String> {
        let inner = self.inner();
        let all = inner.containers.iter();
        let overdue = all.filter(|(_, container)| match container.phase {
            Phase::Running { since_ms, .. } if container.complete_ms > 0 => {
                since_ms + container.complete_ms + container.grace_ms + LATE_MS < now_ms
            }
            Phase::Preparing { .. } | Phase::Running { .. } | Phase::Ended(_) => false,
        });
        let words = overdue.map(|(name, container)| {
            let (key, ms) = (&container.key, container.complete_ms);
            let host = &self.name;
            format!("T6: {key} runs on {host} in {name}, and its max_completion_ms was {ms}")
        });
        words.collect()
    }

    /// Notes that an agent took over what runs in a container, as the task that the agent itself names; those of an
    /// executor name themselves.
    pub(in crate::sim::system) fn note_adopted(&self, name: ContainerName, key: &TaskKey) {
        let inner = self.inner();
        let is_executor = |one: &Container| one.executor.is_some();
        let in_executor = inner.containers.get(&name).is_some_and(is_executor);
        let processes = inner.processes();
        for process in processes.filter(|process| process.container == name) {
            let task = if in_executor { process.key } else { key };
            let fact = TaskFact::Adopted {
                task: task.clone(),
                agent: name.instance.agent,
                pid: process.pid,
                start_time: process.since_ms,
                boot_id: format!("{}-boot-{}", self.name, inner.boots),
            };
            inner.ledger.notes.recorder.observe(&*self.name, fact);
        }
    }
}
