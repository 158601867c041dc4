//! The state of an emulated agent, and its answers.
//!
//! Pure: a message in, messages out.

use std::collections::BTreeMap;
use std::sync::Arc;

use argosy_client::connector::random_seed;
use argosy_proto::v1;
use argosy_proto::versions::VersionRange;
use argosy_state::capability::AgentCapability;
use argosy_state::digest::task_mark;
use argosy_state::ids::{OrderIndex, TaskKey};

/// The last state that a task of an emulated agent reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskLifetime {
    /// It runs and finishes immediately.
    Ends,
    /// It runs as long as the agent.
    RunsUntilKilled,
}

impl TaskLifetime {
    /// Returns the number of updates of every task: running, and finished if it ends.
    fn updates(self) -> u64 {
        match self {
            Self::Ends => 2,
            Self::RunsUntilKilled => 1,
        }
    }
}

/// A task that was launched and not yet released.
#[derive(Debug, Clone, Copy)]
struct UnreleasedTask {
    order: u64,
    committed: u64,
}

pub(super) struct EmulatedAgent {
    info: v1::AgentInfo,
    cluster_id: String,
    agent_id: String,
    confirmed: u64,
    tried: Vec<u64>,
    nonce: u64,
    boot_id: String,
    highest_epoch: u64,
    floor: u64,
    lifetime: TaskLifetime,
    tasks: BTreeMap<TaskKey, UnreleasedTask>,
}

impl EmulatedAgent {
    pub(super) fn new(number: u32, resources: &Arc<Vec<v1::Resource>>, life: TaskLifetime) -> Self {
        let nonce = random_seed();
        Self {
            info: v1::AgentInfo {
                host_name: format!("emulated-{number}"),
                address: format!("127.79.{}.{}:5051", number / 250, number % 250 + 1),
                resources: resources.to_vec(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                isolation: "processes".into(),
                capabilities: AgentCapability::announced().into_iter().collect(),
                ..Default::default()
            },
            cluster_id: String::new(),
            agent_id: String::new(),
            confirmed: 0,
            tried: Vec::new(),
            nonce,
            boot_id: format!("{nonce:016x}"),
            highest_epoch: 0,
            floor: 0,
            lifetime: life,
            tasks: BTreeMap::new(),
        }
    }

    /// Returns the first message on a new link.
    pub(super) fn hello(&mut self) -> v1::Hello {
        if self.tried.is_empty() && self.confirmed == 0 {
            self.tried.push(random_seed());
        }
        v1::Hello {
            protocol: Some(VersionRange::OWN.first_message()),
            cluster_id: self.cluster_id.clone(),
            agent_id: self.agent_id.clone(),
            confirmed_incarnation: self.confirmed,
            tried_incarnations: self.tried.clone(),
            nonce: self.nonce,
            boot_id: self.boot_id.clone(),
            highest_epoch: self.highest_epoch,
            info: Some(self.info.clone()),
            floor: self.floor,
            digest: self.digest().to_be_bytes().to_vec(),
            digests: Vec::new(),
            follows_cluster_id: String::new(),
        }
    }

    fn digest(&self) -> u128 {
        let mark = |(key, held): (&TaskKey, &UnreleasedTask)| {
            task_mark(key, OrderIndex(held.order), held.committed)
        };
        self.tasks.iter().map(mark).fold(0, u128::wrapping_add)
    }

    /// Returns the answers to a message. A message of an earlier epoch is ignored.
    pub(super) fn handle(&mut self, message: v1::ToAgent) -> Vec<v1::FromAgent> {
        use v1::to_agent::Message as ToAgent;
        if message.epoch < self.highest_epoch {
            return Vec::new();
        }
        self.highest_epoch = message.epoch;
        let answer = match message.message {
            Some(ToAgent::Registered(registered)) => {
                self.cluster_id = message.cluster_id;
                self.agent_id = registered.agent_id;
                self.confirmed = registered.incarnation;
                self.tried.clear();
                let unsaid: Vec<TaskKey> = self.tasks.keys().cloned().collect();
                self.report(&unsaid)
            }
            Some(ToAgent::Order(order)) => self.order(order),
            Some(ToAgent::Committed(committed)) => {
                committed
                    .updates
                    .into_iter()
                    .for_each(|update| self.committed(&update));
                None
            }
            Some(ToAgent::ListTasks(v1::ListTasks {})) => {
                Some(v1::from_agent::Message::TaskList(self.list()))
            }
            Some(ToAgent::KillStray(kill)) => {
                if let Some(key) = key(&kill.framework_id, &kill.task_id) {
                    self.tasks.remove(&key);
                }
                None
            }
            Some(ToAgent::Shutdown(_)) => {
                (self.agent_id, self.nonce) = (String::new(), random_seed());
                (self.confirmed, self.floor) = (0, 0);
                self.tasks.clear();
                None
            }
            Some(
                ToAgent::Pong(_)
                | ToAgent::Refused(_)
                | ToAgent::ExecutorMessage(_)
                | ToAgent::TaskSecrets(_)
                | ToAgent::RevokedKeys(_),
            )
            | None => None,
        };
        answer
            .map(|message| v1::FromAgent {
                message: Some(message),
            })
            .into_iter()
            .collect()
    }

    fn order(&mut self, order: v1::Order) -> Option<v1::from_agent::Message> {
        if order.index <= self.floor {
            return None;
        }
        self.floor = order.index;
        let Some(v1::order::Order::Launch(launch)) = order.order else {
            return None;
        };
        let key = key(&launch.framework_id, &launch.spec?.task_id)?;
        self.tasks.insert(
            key.clone(),
            UnreleasedTask {
                order: order.index,
                committed: 0,
            },
        );
        self.report(&[key])
    }

    fn report(&self, keys: &[TaskKey]) -> Option<v1::from_agent::Message> {
        let held = keys
            .iter()
            .filter_map(|key| Some((key, self.tasks.get(key)?)));
        let updates = held.flat_map(|(key, held)| {
            (held.committed + 1..=self.lifetime.updates()).map(|number| update(key, *held, number))
        });
        let updates: Vec<_> = updates.collect();
        (!updates.is_empty()).then_some(v1::from_agent::Message::Report(v1::Report { updates }))
    }

    fn committed(&mut self, update: &v1::CommittedUpdate) {
        let Some(key) = key(&update.framework_id, &update.task_id) else {
            return;
        };
        if let Some(held) = self
            .tasks
            .get_mut(&key)
            .filter(|held| held.order == update.order_index)
        {
            held.committed = held
                .committed
                .max(update.number.min(self.lifetime.updates()));
            if update.released {
                self.tasks.remove(&key);
            }
        }
    }

    fn list(&self) -> v1::TaskList {
        let task = |(key, held): (&TaskKey, &UnreleasedTask)| v1::HeldTask {
            framework_id: key.framework.to_string(),
            task_id: key.task.to_string(),
            order_index: held.order,
            committed_number: held.committed,
            state: match self.lifetime {
                TaskLifetime::Ends => v1::TaskState::Finished,
                TaskLifetime::RunsUntilKilled => v1::TaskState::Running,
            }
            .into(),
        };
        v1::TaskList {
            floor: self.floor,
            tasks: self.tasks.iter().map(task).collect(),
            last: true,
        }
    }
}

fn key(framework_id: &str, task_id: &str) -> Option<TaskKey> {
    Some(TaskKey {
        framework: framework_id.parse().ok()?,
        task: argosy_state::ids::TaskId::new(task_id).ok()?,
    })
}

fn update(key: &TaskKey, held: UnreleasedTask, number: u64) -> v1::NumberedUpdate {
    let is_last = number == TaskLifetime::Ends.updates();
    let exit = v1::Exit {
        how: Some(v1::exit::How::Code(0)),
    };
    v1::NumberedUpdate {
        framework_id: key.framework.to_string(),
        task_id: key.task.to_string(),
        order_index: held.order,
        number,
        state: if is_last {
            v1::TaskState::Finished
        } else {
            v1::TaskState::Running
        }
        .into(),
        source: v1::Source::Agent.into(),
        reason: if is_last {
            v1::Reason::CommandExited
        } else {
            v1::Reason::Unspecified
        }
        .into(),
        exit: is_last.then_some(exit),
        ..v1::NumberedUpdate::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> EmulatedAgent {
        EmulatedAgent::new(0, &Arc::new(Vec::new()), TaskLifetime::Ends)
    }

    fn from_master(epoch: u64, message: v1::to_agent::Message) -> v1::ToAgent {
        v1::ToAgent {
            epoch,
            cluster_id: "c".into(),
            message: Some(message),
        }
    }

    fn launch(index: u64, task_id: &str) -> v1::to_agent::Message {
        let spec = v1::TaskSpec {
            task_id: task_id.into(),
            ..Default::default()
        };
        let launch = v1::LaunchOrder {
            framework_id: "framework-1".into(),
            spec: Some(spec),
            ..Default::default()
        };
        v1::to_agent::Message::Order(v1::Order {
            index,
            order: Some(v1::order::Order::Launch(launch)),
            ..v1::Order::default()
        })
    }

    fn committed(number: u64, released: bool) -> v1::to_agent::Message {
        let update = v1::CommittedUpdate {
            framework_id: "framework-1".into(),
            task_id: "a".into(),
            order_index: 1,
            number,
            released,
        };
        v1::to_agent::Message::Committed(v1::Committed {
            updates: vec![update],
        })
    }

    fn updates(output: &[v1::FromAgent]) -> usize {
        match output {
            [] => 0,
            [
                v1::FromAgent {
                    message: Some(v1::from_agent::Message::Report(report)),
                },
            ] => report.updates.len(),
            other => panic!("not a report: {other:?}"),
        }
    }

    #[test]
    fn a_task_ends_immediately_and_is_removed_when_released() {
        let mut agent = agent();
        assert_eq!(updates(&agent.handle(from_master(1, launch(1, "a")))), 2);
        assert_eq!(
            updates(&agent.handle(from_master(1, launch(1, "a")))),
            0,
            "a repeat starts nothing"
        );
        assert_ne!(agent.digest(), 0);
        agent.handle(from_master(1, committed(2, true)));
        assert_eq!((agent.digest(), agent.floor), (0, 1));
    }

    #[test]
    fn a_task_without_an_end_stays_running() {
        let mut agent = EmulatedAgent::new(0, &Arc::new(Vec::new()), TaskLifetime::RunsUntilKilled);
        assert_eq!(updates(&agent.handle(from_master(1, launch(1, "a")))), 1);
        agent.handle(from_master(1, committed(1, false)));
        assert_eq!(updates(&agent.handle(from_master(1, launch(1, "a")))), 0);
        assert_ne!(agent.digest(), 0);
    }

    #[test]
    fn uncommitted_updates_are_repeated_to_the_next_leader() {
        let mut agent = agent();
        agent.handle(from_master(1, launch(1, "a")));
        agent.handle(from_master(1, committed(1, false)));
        let registered = v1::Registered {
            agent_id: "agent-1".into(),
            incarnation: 5,
            ..Default::default()
        };
        assert_eq!(
            updates(&agent.handle(from_master(
                2,
                v1::to_agent::Message::Registered(registered)
            ))),
            1
        );
        let hello = agent.hello();
        assert_eq!(
            (
                hello.highest_epoch,
                hello.confirmed_incarnation,
                hello.floor
            ),
            (2, 5, 1)
        );
    }

    #[test]
    fn an_order_of_an_earlier_epoch_is_ignored() {
        let mut agent = agent();
        agent.handle(from_master(7, launch(1, "a")));
        assert_eq!(updates(&agent.handle(from_master(6, launch(2, "b")))), 0);
        assert_eq!(agent.floor, 1);
    }
}
