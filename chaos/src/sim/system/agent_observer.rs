//! An observer of an agent's messages and its disk. It checks that the agent persists before it
//! acts, and before it reports.

use argosy_agent::MessageObserver;
use argosy_agent::journal::JournalContents;
use argosy_proto::v1;
use argosy_proto::v1::from_agent::Message as FromAgent;
use argosy_proto::v1::order::Order as AgentOrder;
use argosy_proto::v1::to_agent::Message as ToAgent;
use argosy_state::ids::{AgentId, Epoch, FrameworkId, OrderIndex, TaskId, TaskKey};

use super::deliveries::LeaderAtDial;
use super::machine::{COPY, SimMachine};
use super::world::World;
use crate::history::{AgentFact, Observation, OrderAction, TaskFact};
use crate::sim::run::now_ms;

/// The observer of one incarnation of an agent's process.
pub(super) struct AgentObserver {
    machine: SimMachine,
    world: World,
    /// The epoch of the link.
    epoch: Epoch,
    /// The last entry that the leader had applied when the link was dialed.
    dialed: LeaderAtDial,
}

impl AgentObserver {
    pub(super) fn new(machine: SimMachine, world: World) -> Self {
        let contents = machine.synced();
        machine.stored_epoch(&contents);
        // Launches that a former incarnation stored were delivered to it, whenever this one acts on
        // them. A copied disk had none.
        if *machine.name != *COPY {
            machine.mark_stored(contents.facts.tasks.keys());
        }
        Self {
            machine,
            world,
            epoch: Epoch::default(),
            dialed: LeaderAtDial::default(),
        }
    }

    fn note(&self, fact: impl Into<Observation>) {
        let recorder = &self.world.notes.recorder;
        recorder.observe(&*self.machine.name, fact);
    }

    /// Records that the agent obeys or reports in an epoch that is not the highest on its disk.
    fn note_unfenced(&self, agent: AgentId, epoch: Epoch) {
        self.note(AgentFact::OrderTaken {
            agent,
            epoch,
            order: OrderIndex(0),
            action: OrderAction::Other,
            task: None,
            repeated: true,
        });
    }

    /// Records stored launches as delivered: one that is on the disk when the agent dials or
    /// reports was delivered before, even if it must still be sent to its executor. Launches on a
    /// copied disk were delivered to the agent that owned the disk.
    fn note_delivered(&self, contents: &JournalContents) {
        if *self.machine.name == *COPY {
            return;
        }
        let identity = &contents.facts.identity;
        for (instance, task) in &contents.facts.tasks {
            let in_executor = task.launch.spec.executor.is_some();
            if in_executor
                && identity.agent == Some(instance.agent)
                && !self.machine.has_launched(*instance)
                && self.machine.note_launch(*instance, identity.run)
            {
                self.note(AgentFact::OrderTaken {
                    agent: instance.agent,
                    epoch: self.machine.stored_epoch(contents),
                    order: instance.order,
                    action: OrderAction::Launch,
                    task: Some(task.key.clone()),
                    repeated: false,
                });
            }
        }
    }

    /// Records whether a kill preceded the first launch of its task.
    fn order_received(&self, order: &v1::Order) {
        let Some(AgentOrder::Launch(launch)) = &order.order else {
            return;
        };
        let task = launch.spec.as_ref().map(|spec| spec.task_id.as_str());
        let task = task.and_then(|task| key(&launch.framework_id, task));
        // The copy of a disk is not the agent.
        let Some(task) = task.filter(|_| *self.machine.name != *COPY) else {
            return;
        };
        let deliveries = &self.world.deliveries;
        if let Some(delivered) = deliveries.received(&task, self.epoch, self.dialed) {
            self.world.notes.count(match delivered {
                true => "kills after a launch was sent",
                false => "kills before a launch was sent",
            });
            self.note(TaskFact::KillCommitted { task, delivered });
        }
    }

    fn note_stored_updates(&self, contents: &JournalContents) {
        for (instance, task) in &contents.facts.tasks {
            let known = self.machine.note_updates(*instance, task.newest_update);
            for update in task.updates.iter().filter(|update| update.number > known) {
                let fact = TaskFact::UpdateStored {
                    task: task.key.clone(),
                    order: instance.order,
                    number: update.number,
                    state: update.state,
                };
                self.note(fact);
            }
        }
    }
}

impl MessageObserver for AgentObserver {
    fn on_dial(&mut self) {
        self.world.note_stream(&self.machine.name);
        self.dialed = self.world.dialed();
        self.note_delivered(&self.machine.synced());
    }

    fn on_received(&mut self, message: &v1::ToAgent, is_obeyed: bool) {
        if !is_obeyed {
            return;
        }
        self.machine.note_obeyed(now_ms());
        self.epoch = Epoch(message.epoch);
        if self.epoch < self.machine.known_epoch()
            && let Some(agent) = self.machine.agent()
        {
            self.note_unfenced(agent, self.epoch);
        }
        match &message.message {
            Some(ToAgent::Committed(committed)) => {
                for update in &committed.updates {
                    if let Some(task) = key(&update.framework_id, &update.task_id) {
                        let order = OrderIndex(update.order_index);
                        self.note(TaskFact::UpdateAcknowledged {
                            task: task.clone(),
                            order,
                            number: update.number,
                        });
                        if update.released {
                            self.note(TaskFact::OrphanReported { task, order });
                        }
                    }
                }
            }
            Some(ToAgent::Order(order)) => self.order_received(order),
            Some(ToAgent::KillStray(kill)) => {
                if let Some(task) = key(&kill.framework_id, &kill.task_id) {
                    let order = OrderIndex(kill.order_index);
                    self.note(TaskFact::OrphanReported { task, order });
                }
            }
            _ => {}
        }
    }

    fn on_sent(&mut self, message: &v1::FromAgent) {
        let Some(FromAgent::Report(_) | FromAgent::TaskList(_)) = &message.message else {
            return;
        };
        let contents = self.machine.synced();
        self.note_delivered(&contents);
        let stored = self.machine.stored_epoch(&contents);
        if stored < self.epoch
            && let Some(agent) = contents.facts.identity.agent
        {
            self.note_unfenced(agent, self.epoch);
        }
        let Some(FromAgent::Report(report)) = &message.message else {
            return;
        };
        self.note_stored_updates(&contents);
        for update in &report.updates {
            if let Some(task) = key(&update.framework_id, &update.task_id) {
                self.note(TaskFact::UpdateSent {
                    task,
                    order: OrderIndex(update.order_index),
                    number: update.number,
                });
            }
        }
    }
}

fn key(framework: &str, task: &str) -> Option<TaskKey> {
    let framework: FrameworkId = framework.parse().ok()?;
    let task = TaskId::new(task).ok()?;
    Some(TaskKey { framework, task })
}
