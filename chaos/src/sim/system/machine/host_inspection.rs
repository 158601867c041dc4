//! The state of a host as seen from outside: the content of its disk, and its processes.

use argosy_agent::core::{ContainerName, Instance, LaunchOrder};
use argosy_agent::journal;
use argosy_state::ids::{AgentId, Epoch, OrderIndex, TaskKey};

use super::{COPY, ContainerLimits, ContainerPhase, SimContainer, SimMachine, pids_limit};
use crate::history::{AgentFact, TaskFact};

/// Time for which a task may run beyond its limit: its agent may have been down until recently.
const MAX_OVERDUE_MS: u64 = 1_500;

impl SimMachine {
    /// Returns the content of the journal that a power cut would leave.
    pub(in crate::sim::system) fn synced(&self) -> journal::JournalContents {
        match journal::read_synced(&self.disk) {
            Ok(contents) => contents,
            Err(why) => {
                let message = format!("the journal of {} cannot be read: {why}", self.name);
                self.inner().oracle.notes.violation(message);
                journal::JournalContents::default()
            }
        }
    }

    /// Returns the agent id, if the cluster has assigned one.
    pub(in crate::sim::system) fn agent(&self) -> Option<AgentId> {
        self.synced().facts.identity.agent
    }

    /// Returns the highest epoch on its disk, and records it if it has changed.
    pub(in crate::sim::system) fn stored_epoch(
        &self,
        contents: &journal::JournalContents,
    ) -> Epoch {
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
            inner.oracle.notes.recorder.observe(&*self.name, fact);
        }
        epoch
    }

    /// Records that updates of a launch up to `number` are on its disk. Returns the highest earlier
    /// number, from any incarnation of the agent.
    pub(in crate::sim::system) fn note_updates(&self, instance: Instance, number: u64) -> u64 {
        let mut inner = self.inner();
        let newest = inner.newest_updates.entry(instance).or_default();
        let before = *newest;
        *newest = before.max(number);
        before
    }

    /// Records that its agent obeys a master.
    pub(in crate::sim::system) fn note_obeyed(&self, now_ms: u64) {
        self.inner().obeyed_ms = now_ms;
    }

    /// Returns when its agent last obeyed a master.
    pub(in crate::sim::system) fn obeyed_ms(&self) -> u64 {
        self.inner().obeyed_ms
    }

    /// Returns the highest epoch that was last read from its disk.
    pub(in crate::sim::system) fn known_epoch(&self) -> Epoch {
        self.inner().epoch
    }

    /// Returns whether a launch is acted on for the first time, or again by the same incarnation of
    /// the agent. A later incarnation may continue with a launch that never started.
    pub(in crate::sim::system) fn note_launch(&self, instance: Instance, run: u64) -> bool {
        let mut inner = self.inner();
        *inner.started_by.entry(instance).or_insert(run) == run
    }

    /// Whether a launch was acted on.
    pub(in crate::sim::system) fn has_launched(&self, instance: Instance) -> bool {
        self.inner().started_by.contains_key(&instance)
    }

    /// Records that a former incarnation stored these launches: they are not acted on for the first
    /// time any more.
    pub(in crate::sim::system) fn mark_stored<'a>(
        &self,
        launches: impl Iterator<Item = &'a Instance>,
    ) {
        let mut inner = self.inner();
        for instance in launches {
            inner.started_by.entry(*instance).or_insert(0);
        }
    }

    /// Records the current processes.
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
            inner.oracle.notes.recorder.observe(&*self.name, fact);
        }
    }

    /// Counts a broken stream of an executor.
    pub(in crate::sim::system) fn note_stream(&self) {
        let inner = self.inner();
        inner.oracle.notes.count("streams of executors broken");
    }

    /// Records new limits of a container.
    pub(in crate::sim::system) fn limit(
        &self,
        name: ContainerName,
        launch: &LaunchOrder,
        order: OrderIndex,
    ) {
        if let Some(container) = self.inner().containers.get_mut(&name) {
            container.limits = ContainerLimits {
                pids: pids_limit(launch),
                order,
            };
        }
    }

    pub(in crate::sim::system) fn note_refused_limits(&self) {
        self.inner().oracle.notes.count("limits refused");
    }

    /// Returns the limits of the container of a launch, if it has one that runs.
    pub(in crate::sim::system) fn limits_of(&self, instance: Instance) -> Option<ContainerLimits> {
        let inner = self.inner();
        let mut own = inner.containers.iter().filter(|(name, container)| {
            name.instance == instance && matches!(container.phase, ContainerPhase::Running { .. })
        });
        own.next().map(|(_, container)| container.limits)
    }

    /// Records the tasks whose processes the agent of a new incarnation kills as orphans.
    pub(super) fn note_orphans(&self, is_orphan: impl Fn(&ContainerName) -> bool) {
        let Some(agent) = self.agent() else {
            return;
        };
        let inner = self.inner();
        let processes = inner.processes();
        for process in processes.filter(|process| is_orphan(&process.container)) {
            let task = process.key.clone();
            let fact = TaskFact::Orphaned { task, agent };
            inner.oracle.notes.recorder.observe(&*self.name, fact);
        }
    }

    /// Returns tasks that run longer than their completion limit.
    pub(in crate::sim::system) fn overdue(&self, now_ms: u64) -> Vec<String> {
        let inner = self.inner();
        let all = inner.containers.iter();
        let overdue = all.filter(|(_, container)| match container.phase {
            ContainerPhase::Running { since_ms, .. } if container.complete_ms > 0 => {
                since_ms + container.complete_ms + container.grace_ms + MAX_OVERDUE_MS < now_ms
            }
            ContainerPhase::Preparing { .. }
            | ContainerPhase::Running { .. }
            | ContainerPhase::Ended(_) => false,
        });
        let words = overdue.map(|(name, container)| {
            let (key, ms) = (&container.key, container.complete_ms);
            let host = &self.name;
            format!("Kills: {key} runs on {host} in {name}, and its max_completion_ms was {ms}")
        });
        words.collect()
    }

    /// Records that an agent adopted the processes of a container as the task that the agent names.
    /// Those of an executor name their own tasks.
    pub(in crate::sim::system) fn note_adopted(&self, name: ContainerName, key: &TaskKey) {
        let inner = self.inner();
        let is_executor = |one: &SimContainer| one.executor.is_some();
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
            inner.oracle.notes.recorder.observe(&*self.name, fact);
        }
    }
}
