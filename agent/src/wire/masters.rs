//! Messages between agent and master.

use argosy_host::secret_value::SecretValue;
use argosy_proto::convert::{agent_info, key, limits_from};
use argosy_proto::ticket::TicketKey;
use argosy_proto::v1;
use argosy_proto::v1::from_agent::Message as FromAgent;
use argosy_proto::v1::to_agent::Message as ToAgent;
use argosy_proto::versions::{self, VersionRange};
use argosy_state::access::KeyHash;
use argosy_state::digest::DigestKind;
use argosy_state::ids::{Epoch, OrderIndex, TaskKey};

use super::{launch_from, state_number, update};
use crate::core::messages::{
    AgentMessage, CommittedUpdate, HeldTask, Hello, MasterMessage, MasterMessageBody, Order,
    OrderRequest, OrderSubject, ReceivedTicketKey, Registration, SecretsAnswer, TaskSecrets,
    VersionConflict,
};

/// Reads a message of a master.
#[must_use]
pub fn from_master(wire: v1::ToAgent) -> MasterMessage {
    let name = |framework: &str, task: &str| key(framework, task).ok();
    let body = match wire.message {
        Some(ToAgent::Registered(answer)) => MasterMessageBody::Registered(registration(answer)),
        Some(ToAgent::Refused(v1::RefusedAgent { code, text })) => {
            MasterMessageBody::Refused { code, text }
        }
        Some(ToAgent::Order(order)) => MasterMessageBody::Order(Box::new(order_from(order))),
        Some(ToAgent::Committed(committed)) => {
            let updates = committed.updates.into_iter().filter_map(committed_from);
            MasterMessageBody::Committed(updates.collect())
        }
        Some(ToAgent::Pong(v1::Ping { serial })) => MasterMessageBody::Pong { serial },
        Some(ToAgent::Shutdown(v1::Shutdown { reason })) => MasterMessageBody::Shutdown { reason },
        Some(ToAgent::ListTasks(v1::ListTasks {})) => MasterMessageBody::ListTasks,
        Some(ToAgent::KillStray(kill)) => MasterMessageBody::KillStray {
            key: name(&kill.framework_id, &kill.task_id),
            order: OrderIndex(kill.order_index),
        },
        Some(ToAgent::ExecutorMessage(message)) => MasterMessageBody::ExecutorMessage {
            executor: name(&message.framework_id, &message.executor_id),
            data: message.data,
        },
        Some(ToAgent::TaskSecrets(secrets)) => MasterMessageBody::TaskSecrets(TaskSecrets {
            key: name(&secrets.framework_id, &secrets.task_id),
            order: OrderIndex(secrets.order_index),
            answer: secrets_answer(secrets.secrets, secrets.refusal),
        }),
        Some(ToAgent::RevokedKeys(v1::RevokedKeys { key_hashes })) => {
            let read = |hash: Vec<u8>| hash.try_into().ok().map(KeyHash);
            MasterMessageBody::RevokedKeys(key_hashes.into_iter().filter_map(read).collect())
        }
        None => MasterMessageBody::Unknown,
    };
    MasterMessage {
        cluster: wire.cluster_id.parse(),
        epoch: Epoch(wire.epoch),
        body,
    }
}

fn secrets_answer(secrets: Vec<v1::TaskSecret>, refusal: String) -> SecretsAnswer {
    if !refusal.is_empty() {
        return Err(refusal);
    }
    let secrets = secrets.into_iter().map(|secret| {
        let value = SecretValue::new(secret.value);
        let found = match secret.refusal.is_empty() {
            true => Ok(value),
            false => Err(secret.refusal),
        };
        (secret.name, found)
    });
    Ok(secrets.collect())
}

fn registration(wire: v1::Registered) -> Registration {
    let range = wire.protocol.as_ref();
    let agreed = range.map(|range| VersionRange::OWN.negotiate("the master", range));
    let conflict = agreed.and_then(Result::err);
    Registration {
        version_conflict: conflict.map(|why| VersionConflict {
            code: versions::CODE,
            text: why.to_string(),
        }),
        agent: wire.agent_id.parse().map_err(|_| wire.agent_id),
        incarnation: wire.incarnation,
        heartbeat_interval_ms: wire.heartbeat_interval_ms,
        ticket_keys: wire
            .ticket_keys
            .into_iter()
            .map(|key| ReceivedTicketKey {
                number: key.number,
                secret: SecretValue::new(key.secret),
            })
            .collect(),
    }
}

/// Returns the keys that are well-formed.
pub(crate) fn ticket_keys(received: &[ReceivedTicketKey]) -> Vec<TicketKey> {
    let key = |key: &ReceivedTicketKey| TicketKey::received(key.number, key.secret.expose());
    received.iter().filter_map(key).collect()
}

fn committed_from(wire: v1::CommittedUpdate) -> Option<CommittedUpdate> {
    Some(CommittedUpdate {
        key: key(&wire.framework_id, &wire.task_id).ok()?,
        order: OrderIndex(wire.order_index),
        number: wire.number,
        released: wire.released,
    })
}

fn order_from(wire: v1::Order) -> Order {
    let name = |framework: &str, task: &str| key(framework, task).ok();
    let request = match wire.order {
        Some(v1::order::Order::Launch(launch)) => {
            OrderRequest::Launch(launch_from(launch).map(Box::new))
        }
        Some(v1::order::Order::Kill(kill)) => OrderRequest::Kill {
            key: name(&kill.framework_id, &kill.task_id),
            grace_ms: kill.grace_ms,
        },
        Some(v1::order::Order::Limits(order)) => OrderRequest::Limits {
            key: name(&order.framework_id, &order.task_id),
            limits: order.limits.map(limits_from),
        },
        Some(v1::order::Order::Void(v1::Void {})) => OrderRequest::Void,
        None => OrderRequest::Unknown,
    };
    let subject = match wire.subject {
        None => OrderSubject::Unnamed,
        Some(v1::Subject {
            subject: Some(v1::subject::Subject::Task(task)),
        }) => OrderSubject::Task(name(&task.framework_id, &task.task_id)),
        Some(v1::Subject { subject: None }) => OrderSubject::Unknown,
    };
    Order {
        index: OrderIndex(wire.index),
        subject,
        request,
    }
}

/// Returns a hello on the wire.
#[must_use]
pub fn hello(hello: Hello) -> v1::Hello {
    let digest = |kind| hello.digests.of(kind).to_be_bytes().to_vec();
    v1::Hello {
        protocol: Some(VersionRange::OWN.first_message()),
        cluster_id: text(hello.cluster),
        follows_cluster_id: text(hello.follows),
        agent_id: text(hello.agent),
        confirmed_incarnation: hello.confirmed,
        tried_incarnations: hello.unconfirmed,
        nonce: hello.nonce,
        boot_id: hello.boot_id,
        highest_epoch: hello.highest_epoch.0,
        info: Some(agent_info(&hello.info)),
        floor: hello.floor.0,
        digest: digest(DigestKind::Task),
        digests: DigestKind::ALL
            .map(|kind| v1::HeldDigest {
                kind: kind.name().to_owned(),
                digest: digest(kind),
            })
            .to_vec(),
    }
}

fn text(id: Option<impl ToString>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

/// Returns a message to a master on the wire.
#[must_use]
pub fn to_master(message: AgentMessage) -> v1::FromAgent {
    let message = match message {
        AgentMessage::Report(updates) => FromAgent::Report(v1::Report {
            updates: updates.iter().map(update).collect(),
        }),
        AgentMessage::TaskList { floor, tasks, last } => FromAgent::TaskList(v1::TaskList {
            floor: floor.0,
            tasks: tasks.iter().map(held_task).collect(),
            last,
        }),
        AgentMessage::Ping { serial } => FromAgent::Ping(v1::Ping { serial }),
        AgentMessage::ExecutorMessage {
            framework,
            agent,
            executor,
            data,
        } => FromAgent::ExecutorMessage(v1::ExecutorMessage {
            framework_id: framework.to_string(),
            agent_id: agent.to_string(),
            executor_id: executor.to_string(),
            data,
        }),
        AgentMessage::SecretsWanted { key, order } => FromAgent::SecretsWanted(v1::SecretsWanted {
            framework_id: key.framework.to_string(),
            task_id: key.task.to_string(),
            order_index: order.0,
        }),
        AgentMessage::UnsupportedOrder(order) => {
            FromAgent::UnsupportedOrder(v1::UnsupportedOrder {
                order_index: order.0,
            })
        }
    };
    v1::FromAgent {
        message: Some(message),
    }
}

fn held_task(held: &HeldTask) -> v1::HeldTask {
    let TaskKey { framework, task } = &held.key;
    v1::HeldTask {
        framework_id: framework.to_string(),
        task_id: task.to_string(),
        order_index: held.order.0,
        committed_number: held.committed,
        state: state_number(held.state),
    }
}
