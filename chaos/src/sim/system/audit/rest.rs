//! Checks of a cluster at rest: services run, no fault is active, and nothing changes.

use std::collections::BTreeSet;

use argosy_state::ids::TaskKey;
use argosy_state::task::TaskState;

use super::{ClusterAudit, executor_of};
use crate::history::{self, FinalTask};
use crate::sim::system::machine::SimMachine;

/// Registered tasks, running tasks and running executors at one moment.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::sim::system) struct TaskSnapshot {
    registered: Vec<(TaskKey, TaskState)>,
    running: Vec<Vec<TaskKey>>,
    executors: Vec<Vec<TaskKey>>,
}

impl ClusterAudit {
    /// Returns the current state. It is `None` while the cluster is not healthy, an agent has had
    /// no message of its leader since then, or an update has not reached the leader. A connection
    /// that lost a packet delivers it later than the time for which a cluster at rest must not
    /// change. An update that never arrives is found by [`Self::unsettled`].
    pub(in crate::sim::system) fn snapshot(&self, since_ms: u64) -> Option<TaskSnapshot> {
        let live = self.log.registry().tasks();
        let live = live.filter(|task| !task.is_terminal());
        let machines = || self.world.machines.iter();
        let is_led = machines().all(|machine| machine.obeyed_ms() > since_ms);
        let is_known = || machines().all(|machine| self.is_reported(machine));
        (is_led && self.unrecovered().is_empty() && is_known()).then(|| TaskSnapshot {
            registered: live.map(|task| (task.key.clone(), task.state)).collect(),
            running: machines().map(SimMachine::running).collect(),
            executors: machines().map(SimMachine::executors).collect(),
        })
    }

    /// Whether the registry has every update on the disk of a host.
    fn is_reported(&self, machine: &SimMachine) -> bool {
        let registry = self.log.registry();
        let facts = machine.synced().facts;
        facts.tasks.iter().all(|(instance, stored)| {
            let task = registry.task(&stored.key);
            let same =
                task.filter(|task| (task.agent, task.order) == (instance.agent, instance.order));
            same.is_none_or(|task| task.reported >= stored.newest_update)
        })
    }

    /// Checks a cluster in which nothing has changed for a while.
    pub(in crate::sim::system) fn check_rest(&self, now_ms: u64) {
        self.note_running();
        let machines = self.world.machines.iter();
        for machine in machines {
            let torn = machine.partly_failed_groups().into_iter();
            let late = machine.overdue(now_ms);
            torn.chain(late).for_each(|words| self.violation(words));
            self.check_executors(machine);
        }
    }

    /// Checks executors. A task that an executor has not received yet does not count: it may wait
    /// until the executor has ended.
    fn check_executors(&self, machine: &SimMachine) {
        let Some(agent) = machine.agent() else {
            return;
        };
        let tasks = self.log.registry().tasks_on(agent);
        let given = tasks.filter(|task| !task.is_terminal() && task.state != TaskState::Staging);
        let needed: BTreeSet<_> = given.filter_map(executor_of).collect();
        for key in machine.executors() {
            if !needed.contains(&key) {
                let host = &machine.name;
                self.violation(format!(
                    "ExecutorLifetime: executor {key} runs on {host} without a task"
                ));
            }
        }
    }

    /// Records the tasks of the registry and the processes of each host.
    pub(super) fn note_running(&self) {
        let live = self.log.registry().tasks();
        let live = live.filter(|task| !task.is_terminal());
        let tasks = live.map(|task| FinalTask {
            task: task.key.clone(),
            agent: task.agent,
            state: task.state,
        });
        let tasks = tasks.collect();
        let recorder = &self.world.notes.recorder;
        recorder.observe("audit", history::AuditFinding::Registry { tasks });
        for machine in self.world.machines.iter() {
            if let Some(agent) = machine.agent() {
                let tasks = machine.running();
                recorder.observe("audit", history::AuditFinding::Host { agent, tasks });
            }
        }
    }
}
