//! Messages between agent and executors.

use argosy_proto::convert::exit_from;
use argosy_proto::v1;
use argosy_proto::v1::to_executor::Message as ToExecutor;
use argosy_proto::versions::VersionRange;
use argosy_state::ids::OrderIndex;
use argosy_state::limits::MESSAGE_BYTES;

use super::{launch, task_state};
use crate::core::{ExecutorMessage, ExecutorTask, ExecutorUpdate};

/// Reads the name of a task.
#[must_use]
pub fn executor_task(wire: v1::ExecutorTask) -> ExecutorTask {
    ExecutorTask {
        task: wire.task_id,
        order: OrderIndex(wire.order_index),
    }
}

/// Reads an update of an executor. Its text is cut to the length that masters keep: the agent keeps
/// one for each task.
#[must_use]
pub fn executor_update(wire: v1::ExecutorUpdate) -> ExecutorUpdate {
    ExecutorUpdate {
        task: wire.task_id,
        order: OrderIndex(wire.order_index),
        serial: wire.serial,
        state: task_state(wire.state),
        text: wire.text[..wire.text.floor_char_boundary(MESSAGE_BYTES)].to_owned(),
        exit: exit_from(wire.exit),
    }
}

/// Returns a message to an executor on the wire.
#[must_use]
pub fn to_executor(message: ExecutorMessage) -> v1::ToExecutor {
    let message = match message {
        ExecutorMessage::Subscribed { version, key } => {
            ToExecutor::Subscribed(v1::ExecutorSubscribed {
                protocol: Some(VersionRange::OWN.answer(version)),
                framework_id: key.framework.to_string(),
                executor_id: key.task.to_string(),
            })
        }
        ExecutorMessage::Launch {
            order,
            launch: task,
        } => ToExecutor::Launch(v1::ExecutorLaunch {
            order_index: order.0,
            spec: launch(&task).spec.map(|spec| v1::TaskSpec {
                executor: None,
                ..spec
            }),
        }),
        ExecutorMessage::Kill {
            task,
            order,
            grace_ms,
        } => ToExecutor::Kill(v1::ExecutorKill {
            task_id: task,
            order_index: order.0,
            grace_ms,
        }),
        ExecutorMessage::Acknowledged {
            task,
            order,
            serial,
        } => ToExecutor::Acknowledged(v1::ExecutorAcknowledged {
            task_id: task,
            order_index: order.0,
            serial,
        }),
        ExecutorMessage::Shutdown { grace_ms } => {
            ToExecutor::Shutdown(v1::ExecutorShutdown { grace_ms })
        }
        ExecutorMessage::FrameworkMessage(data) => ToExecutor::FrameworkMessage(data),
    };
    v1::ToExecutor {
        message: Some(message),
    }
}
