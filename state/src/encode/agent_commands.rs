//! What agents say, as it stands in the log.

use prost::Message;

use super::agent::AgentInfoMessage;
use super::checks::{StandingMessage, standing, standing_from};
use super::limits::LimitsReportMessage;
use super::names::{self, RevisionMessage, TaskKeyMessage};
use super::numbers::Numbered;
use super::task::{ExitMessage, exit};
use super::{Read, Wrong};
use crate::command::{
    AgentDecision, AgentUpdate, HeldTask, ReconcileAgent, RegisterAgent, Stopped, UpdateTasks,
};
use crate::ids::{AgentId, OrderIndex};

#[derive(Clone, PartialEq, Message)]
pub(super) struct RegisterAgentMessage {
    #[prost(uint64, optional, tag = "1")]
    agent: Option<u64>,
    #[prost(fixed64, tag = "2")]
    nonce: u64,
    #[prost(fixed64, tag = "3")]
    confirmed: u64,
    #[prost(fixed64, repeated, tag = "4")]
    tried: Vec<u64>,
    #[prost(string, tag = "5")]
    boot_id: String,
    #[prost(message, optional, tag = "6")]
    info: Option<AgentInfoMessage>,
}

impl From<&RegisterAgent> for RegisterAgentMessage {
    fn from(register: &RegisterAgent) -> Self {
        Self {
            agent: register.agent.map(|id| id.0),
            nonce: register.nonce,
            confirmed: register.confirmed,
            tried: register.tried.clone(),
            boot_id: register.boot_id.clone(),
            info: Some((&register.info).into()),
        }
    }
}

impl TryFrom<RegisterAgentMessage> for RegisterAgent {
    type Error = Wrong;

    fn try_from(message: RegisterAgentMessage) -> Read<Self> {
        Ok(Self {
            agent: message.agent.map(AgentId),
            nonce: message.nonce,
            confirmed: message.confirmed,
            tried: message.tried,
            boot_id: message.boot_id,
            info: message.info.ok_or(Wrong("info"))?.try_into()?,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AgentDecisionMessage {
    #[prost(uint64, tag = "1")]
    agent: u64,
    #[prost(message, optional, tag = "2")]
    decided_on: Option<RevisionMessage>,
    #[prost(int64, tag = "3")]
    wall_ms: i64,
}

impl From<&AgentDecision> for AgentDecisionMessage {
    fn from(decision: &AgentDecision) -> Self {
        Self {
            agent: decision.agent.0,
            decided_on: Some(decision.decided_on.into()),
            wall_ms: decision.wall_ms,
        }
    }
}

impl TryFrom<AgentDecisionMessage> for AgentDecision {
    type Error = Wrong;

    fn try_from(message: AgentDecisionMessage) -> Read<Self> {
        Ok(Self {
            agent: AgentId(message.agent),
            decided_on: names::revision(message.decided_on)?,
            wall_ms: message.wall_ms,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StoppedMessage {
    #[prost(uint64, tag = "1")]
    agent: u64,
    #[prost(message, optional, tag = "2")]
    decided_on: Option<RevisionMessage>,
    #[prost(uint64, tag = "3")]
    silent_ms: u64,
    #[prost(int64, tag = "4")]
    wall_ms: i64,
}

impl From<&Stopped> for StoppedMessage {
    fn from(stopped: &Stopped) -> Self {
        Self {
            agent: stopped.agent.0,
            decided_on: Some(stopped.decided_on.into()),
            silent_ms: stopped.silent_ms,
            wall_ms: stopped.wall_ms,
        }
    }
}

impl TryFrom<StoppedMessage> for Stopped {
    type Error = Wrong;

    fn try_from(message: StoppedMessage) -> Read<Self> {
        Ok(Self {
            agent: AgentId(message.agent),
            decided_on: names::revision(message.decided_on)?,
            silent_ms: message.silent_ms,
            wall_ms: message.wall_ms,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ReconcileAgentMessage {
    #[prost(uint64, tag = "1")]
    agent: u64,
    #[prost(fixed64, tag = "2")]
    incarnation: u64,
    #[prost(uint64, tag = "3")]
    floor: u64,
    #[prost(message, optional, tag = "4")]
    after: Option<TaskKeyMessage>,
    #[prost(message, optional, tag = "5")]
    through: Option<TaskKeyMessage>,
    #[prost(message, repeated, tag = "6")]
    held: Vec<HeldTaskMessage>,
    #[prost(int64, tag = "7")]
    wall_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
struct HeldTaskMessage {
    #[prost(message, optional, tag = "1")]
    key: Option<TaskKeyMessage>,
    #[prost(uint64, tag = "2")]
    order: u64,
}

impl From<&ReconcileAgent> for ReconcileAgentMessage {
    fn from(list: &ReconcileAgent) -> Self {
        let held = list.held.iter().map(|held| HeldTaskMessage {
            key: Some((&held.key).into()),
            order: held.order.0,
        });
        Self {
            agent: list.agent.0,
            incarnation: list.incarnation,
            floor: list.floor.0,
            after: list.after.as_ref().map(Into::into),
            through: list.through.as_ref().map(Into::into),
            held: held.collect(),
            wall_ms: list.wall_ms,
        }
    }
}

impl TryFrom<ReconcileAgentMessage> for ReconcileAgent {
    type Error = Wrong;

    fn try_from(message: ReconcileAgentMessage) -> Read<Self> {
        let held: Read<Vec<HeldTask>> = message
            .held
            .into_iter()
            .map(|held| {
                Ok(HeldTask {
                    key: held.key.ok_or(Wrong("task"))?.try_into()?,
                    order: OrderIndex(held.order),
                })
            })
            .collect();
        Ok(Self {
            agent: AgentId(message.agent),
            incarnation: message.incarnation,
            floor: OrderIndex(message.floor),
            after: message.after.map(TryInto::try_into).transpose()?,
            through: message.through.map(TryInto::try_into).transpose()?,
            held: held?,
            wall_ms: message.wall_ms,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct UpdateTasksMessage {
    #[prost(uint64, tag = "1")]
    agent: u64,
    #[prost(message, repeated, tag = "2")]
    updates: Vec<AgentUpdateMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct AgentUpdateMessage {
    #[prost(message, optional, tag = "1")]
    key: Option<TaskKeyMessage>,
    #[prost(uint64, tag = "2")]
    order: u64,
    #[prost(uint64, tag = "3")]
    number: u64,
    #[prost(uint32, tag = "4")]
    state: u32,
    #[prost(uint32, tag = "5")]
    source: u32,
    #[prost(uint32, tag = "6")]
    reason: u32,
    #[prost(string, tag = "7")]
    message: String,
    #[prost(message, optional, tag = "8")]
    exit: Option<ExitMessage>,
    #[prost(int64, tag = "9")]
    wall_ms: i64,
    #[prost(message, optional, tag = "10")]
    standing: Option<StandingMessage>,
    #[prost(message, optional, tag = "40")]
    limits: Option<LimitsReportMessage>,
}

impl From<&UpdateTasks> for UpdateTasksMessage {
    fn from(report: &UpdateTasks) -> Self {
        let updates = report.updates.iter().map(|update| AgentUpdateMessage {
            key: Some((&update.key).into()),
            order: update.order.0,
            number: update.number,
            state: update.state.number(),
            source: update.source.number(),
            reason: update.reason.number(),
            message: update.message.clone(),
            exit: update.exit.map(Into::into),
            wall_ms: update.wall_ms,
            standing: standing(update.standing),
            limits: update.limits.as_ref().map(Into::into),
        });
        Self {
            agent: report.agent.0,
            updates: updates.collect(),
        }
    }
}

impl TryFrom<UpdateTasksMessage> for UpdateTasks {
    type Error = Wrong;

    fn try_from(message: UpdateTasksMessage) -> Read<Self> {
        let updates: Read<Vec<AgentUpdate>> =
            message.updates.into_iter().map(TryInto::try_into).collect();
        Ok(Self {
            agent: AgentId(message.agent),
            updates: updates?,
        })
    }
}

impl TryFrom<AgentUpdateMessage> for AgentUpdate {
    type Error = Wrong;

    fn try_from(message: AgentUpdateMessage) -> Read<Self> {
        Ok(Self {
            key: message.key.ok_or(Wrong("task"))?.try_into()?,
            order: OrderIndex(message.order),
            number: message.number,
            state: Numbered::of(message.state)?,
            source: Numbered::of(message.source)?,
            reason: Numbered::of(message.reason)?,
            message: message.message,
            exit: exit(message.exit)?,
            standing: standing_from(message.standing),
            limits: message.limits.map(TryInto::try_into).transpose()?,
            wall_ms: message.wall_ms,
        })
    }
}
