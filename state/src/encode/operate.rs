//! Operators' changes and sweeps as they stand in the log.

use prost::{Message, Oneof};

use super::limits::{self, LimitsMessage};
use super::names::{self, TaskKeyMessage};
use super::{Read, Wrong};
use crate::command::{Operate, Operation, SweepTarget};
use crate::ids::{AgentId, FrameworkId};

#[derive(Clone, PartialEq, Message)]
pub(super) struct SweepMessage {
    #[prost(oneof = "SweepKind", tags = "1, 2, 3")]
    kind: Option<SweepKind>,
}

#[derive(Clone, Copy, PartialEq, Oneof)]
enum SweepKind {
    #[prost(uint64, tag = "1")]
    Agent(u64),
    #[prost(uint64, tag = "2")]
    Framework(u64),
    #[prost(uint64, tag = "3")]
    PrunedAgent(u64),
}

impl From<SweepTarget> for SweepMessage {
    fn from(target: SweepTarget) -> Self {
        Self {
            kind: Some(match target {
                SweepTarget::Agent(id) => SweepKind::Agent(id.0),
                SweepTarget::Framework(id) => SweepKind::Framework(id.0),
                SweepTarget::PrunedAgent(id) => SweepKind::PrunedAgent(id.0),
            }),
        }
    }
}

impl TryFrom<SweepMessage> for SweepTarget {
    type Error = Wrong;

    fn try_from(message: SweepMessage) -> Read<Self> {
        Ok(match message.kind.ok_or(Wrong("sweep"))? {
            SweepKind::Agent(id) => Self::Agent(AgentId(id)),
            SweepKind::Framework(id) => Self::Framework(FrameworkId(id)),
            SweepKind::PrunedAgent(id) => Self::PrunedAgent(AgentId(id)),
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OperateMessage {
    #[prost(message, optional, tag = "1")]
    request: Option<RequestMessage>,
    #[prost(fixed64, tag = "2")]
    hash: u64,
    #[prost(message, repeated, tag = "3")]
    operations: Vec<OperationMessage>,
    #[prost(int64, tag = "4")]
    wall_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
struct RequestMessage {
    #[prost(string, tag = "1")]
    principal: String,
    #[prost(string, tag = "2")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct OperationMessage {
    #[prost(oneof = "OperationKind", tags = "1, 2, 3, 4, 5, 6, 7, 40")]
    kind: Option<OperationKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum OperationKind {
    #[prost(message, tag = "1")]
    SetAttribute(SetAttributeMessage),
    #[prost(message, tag = "2")]
    KillTask(KillTaskMessage),
    #[prost(uint64, tag = "3")]
    Teardown(u64),
    #[prost(message, tag = "4")]
    SetWeight(SetWeightMessage),
    #[prost(uint64, tag = "5")]
    Deactivate(u64),
    #[prost(uint64, tag = "6")]
    Reactivate(u64),
    #[prost(uint64, tag = "7")]
    MarkGone(u64),
    #[prost(message, tag = "40")]
    UpdateLimits(UpdateLimitsMessage),
}

#[derive(Clone, PartialEq, Message)]
struct SetAttributeMessage {
    #[prost(uint64, tag = "1")]
    agent: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct KillTaskMessage {
    #[prost(message, optional, tag = "1")]
    key: Option<TaskKeyMessage>,
    #[prost(uint64, optional, tag = "2")]
    grace_ms: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct UpdateLimitsMessage {
    #[prost(message, optional, tag = "1")]
    key: Option<TaskKeyMessage>,
    #[prost(message, optional, tag = "2")]
    limits: Option<LimitsMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct SetWeightMessage {
    #[prost(string, tag = "1")]
    role: String,
    #[prost(uint64, tag = "2")]
    weight_milli: u64,
}

impl From<&Operate> for OperateMessage {
    fn from(operate: &Operate) -> Self {
        Self {
            request: operate
                .request
                .as_ref()
                .map(|(principal, id)| RequestMessage {
                    principal: principal.clone(),
                    id: id.clone(),
                }),
            hash: operate.hash,
            operations: operate.operations.iter().map(Into::into).collect(),
            wall_ms: operate.wall_ms,
        }
    }
}

impl TryFrom<OperateMessage> for Operate {
    type Error = Wrong;

    fn try_from(message: OperateMessage) -> Read<Self> {
        let operations: Read<Vec<Operation>> = message
            .operations
            .into_iter()
            .map(TryInto::try_into)
            .collect();
        Ok(Self {
            request: message
                .request
                .map(|request| (request.principal, request.id)),
            hash: message.hash,
            operations: operations?,
            wall_ms: message.wall_ms,
        })
    }
}

impl From<&Operation> for OperationMessage {
    fn from(operation: &Operation) -> Self {
        let kind = match operation {
            Operation::SetAttribute { agent, name, value } => {
                OperationKind::SetAttribute(SetAttributeMessage {
                    agent: agent.0,
                    name: name.clone(),
                    value: value.clone(),
                })
            }
            Operation::KillTask { key, grace_ms } => OperationKind::KillTask(KillTaskMessage {
                key: Some(key.into()),
                grace_ms: *grace_ms,
            }),
            Operation::UpdateLimits { key, limits } => {
                OperationKind::UpdateLimits(UpdateLimitsMessage {
                    key: Some(key.into()),
                    limits: Some(limits.into()),
                })
            }
            Operation::Teardown(id) => OperationKind::Teardown(id.0),
            Operation::SetWeight { role, weight_milli } => {
                OperationKind::SetWeight(SetWeightMessage {
                    role: role.as_str().to_owned(),
                    weight_milli: *weight_milli,
                })
            }
            Operation::Deactivate(id) => OperationKind::Deactivate(id.0),
            Operation::Reactivate(id) => OperationKind::Reactivate(id.0),
            Operation::MarkGone(id) => OperationKind::MarkGone(id.0),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<OperationMessage> for Operation {
    type Error = Wrong;

    fn try_from(message: OperationMessage) -> Read<Self> {
        Ok(match message.kind.ok_or(Wrong("operation"))? {
            OperationKind::SetAttribute(set) => Self::SetAttribute {
                agent: AgentId(set.agent),
                name: set.name,
                value: set.value,
            },
            OperationKind::KillTask(kill) => Self::KillTask {
                key: kill.key.ok_or(Wrong("task"))?.try_into()?,
                grace_ms: kill.grace_ms,
            },
            OperationKind::UpdateLimits(update) => Self::UpdateLimits {
                key: update.key.ok_or(Wrong("task"))?.try_into()?,
                limits: limits::required(update.limits)?,
            },
            OperationKind::Teardown(id) => Self::Teardown(FrameworkId(id)),
            OperationKind::SetWeight(set) => Self::SetWeight {
                role: names::role(&set.role)?,
                weight_milli: set.weight_milli,
            },
            OperationKind::Deactivate(id) => Self::Deactivate(AgentId(id)),
            OperationKind::Reactivate(id) => Self::Reactivate(AgentId(id)),
            OperationKind::MarkGone(id) => Self::MarkGone(AgentId(id)),
        })
    }
}
