//! Reading of the changes by operators.

use argosy_proto::convert::{self, InvalidMessage};
use argosy_proto::v1;
use argosy_state::command::{Operate, OperatorOperation};
use argosy_state::fingerprint;
use argosy_state::ids::{AgentId, Role, TaskId, TaskKey};

use super::{access, secrets};

/// Reads a batch of operators, and computes its fingerprint.
pub(crate) fn operate(batch: v1::WriteBatch) -> Result<Operate, InvalidMessage> {
    let operations = batch.operations.into_iter().enumerate().map(|(at, wire)| {
        let field = format!("operations[{at}]");
        wire.operation
            .ok_or_else(|| InvalidMessage::new(&field, "it is empty, or of a newer release"))
            .and_then(|wire| operation(wire).map_err(|why| why.inside(&field)))
    });
    let mut operate = Operate {
        request: if batch.request_id.is_empty() {
            None
        } else {
            Some((batch.principal, batch.request_id))
        },
        hash: 0,
        operations: operations.collect::<Result<_, _>>()?,
        wall_ms: 0,
    };
    if operate
        .request
        .as_ref()
        .is_some_and(|(principal, id)| principal.len() > 255 || id.len() > 255)
    {
        return Err(InvalidMessage::new(
            "request_id",
            "principal and request id take 255 bytes at most",
        ));
    }
    if operate.request.is_some() {
        operate.hash = fingerprint::batch(&operate);
    }
    Ok(operate)
}

fn operation(wire: v1::write_operation::Operation) -> Result<OperatorOperation, InvalidMessage> {
    use v1::write_operation::Operation as Wire;
    let agent = |id: &str| convert::id::<AgentId>("agent_id", id);
    Ok(match wire {
        Wire::SetAttribute(set) => OperatorOperation::SetAttribute {
            agent: agent(&set.agent_id)?,
            name: set.name,
            value: set.value,
        },
        Wire::KillTask(kill) => OperatorOperation::KillTask {
            key: task_key(&kill.framework_id, &kill.task_id)?,
            grace_ms: kill.grace_ms,
        },
        Wire::UpdateLimits(update) => OperatorOperation::UpdateLimits {
            key: task_key(&update.framework_id, &update.task_id)?,
            limits: convert::limits_from(update.limits.unwrap_or_default()),
        },
        Wire::TeardownFramework(teardown) => {
            OperatorOperation::Teardown(convert::id("framework_id", &teardown.framework_id)?)
        }
        Wire::SetWeight(set) => {
            let role =
                Role::new(&set.role).map_err(|why| InvalidMessage::new("role", why.to_string()))?;
            OperatorOperation::SetWeight {
                role,
                weight_milli: set.weight_milli,
            }
        }
        Wire::DeactivateAgent(wire) => OperatorOperation::Deactivate(agent(&wire.agent_id)?),
        Wire::ReactivateAgent(wire) => OperatorOperation::Reactivate(agent(&wire.agent_id)?),
        Wire::MarkAgentGone(wire) => OperatorOperation::MarkGone(agent(&wire.agent_id)?),
        Wire::SetSecret(wire) => secrets::operation(&wire.name, secrets::set)?,
        Wire::ResealSecret(wire) => secrets::operation(&wire.name, secrets::reseal)?,
        Wire::RemoveSecret(wire) => {
            secrets::operation(&wire.name, OperatorOperation::RemoveSecret)?
        }
        Wire::SetPolicy(_)
        | Wire::CreateToken(_)
        | Wire::RevokeToken(_)
        | Wire::RevokeKey(_)
        | Wire::SetRateLimit(_) => OperatorOperation::Access(access::operation(wire)?),
    })
}

fn task_key(framework: &str, task: &str) -> Result<TaskKey, InvalidMessage> {
    let task = TaskId::new(task).map_err(|why| InvalidMessage::new("task_id", why.to_string()))?;
    Ok(TaskKey {
        framework: convert::id("framework_id", framework)?,
        task,
    })
}
