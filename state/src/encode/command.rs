//! Commands as they stand in the log.

use prost::{Message, Oneof};

use super::agent_commands::{
    AgentDecisionMessage, ReconcileAgentMessage, RegisterAgentMessage, StoppedMessage,
    UpdateTasksMessage,
};
use super::call::CallMessage;
use super::framework::FrameworkInfoMessage;
use super::names::{self, RevisionMessage};
use super::operate::{OperateMessage, SweepMessage};
use super::{Read, Wrong};
use crate::command::{
    Acknowledge, Command, CompareDigest, FrameworkDecision, OpenEpoch, Proposed, RaiseLowWater,
    Subscribe,
};
use crate::ids::{Epoch, FrameworkId, NodeId, Ticket};
use crate::level::Level;

/// What every command begins with, whatever its format: read first, and alone.
#[derive(Clone, PartialEq, Message)]
pub(super) struct FormatMessage {
    #[prost(uint32, tag = "1")]
    pub(super) format: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CommandMessage {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint64, tag = "3")]
    serial: u64,
    #[prost(
        oneof = "CommandKind",
        tags = "4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21"
    )]
    kind: Option<CommandKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum CommandKind {
    #[prost(message, tag = "4")]
    OpenEpoch(OpenEpochMessage),
    #[prost(message, tag = "5")]
    RegisterAgent(Box<RegisterAgentMessage>),
    #[prost(message, tag = "6")]
    AgentUnreachable(AgentDecisionMessage),
    #[prost(message, tag = "7")]
    ReconcileAgent(Box<ReconcileAgentMessage>),
    #[prost(message, tag = "8")]
    UpdateTasks(UpdateTasksMessage),
    #[prost(message, tag = "9")]
    Subscribe(Box<SubscribeMessage>),
    #[prost(message, tag = "10")]
    DisconnectFramework(FrameworkDecisionMessage),
    #[prost(message, tag = "11")]
    ExpireFramework(FrameworkDecisionMessage),
    #[prost(message, tag = "12")]
    Call(Box<CallMessage>),
    #[prost(message, tag = "13")]
    Acknowledge(AcknowledgeMessage),
    #[prost(message, tag = "14")]
    RaiseLowWater(RaiseLowWaterMessage),
    #[prost(message, tag = "15")]
    Operate(OperateMessage),
    #[prost(message, tag = "16")]
    Sweep(SweepMessage),
    #[prost(message, tag = "17")]
    Tick(TickMessage),
    #[prost(message, tag = "18")]
    PruneAgent(AgentDecisionMessage),
    #[prost(message, tag = "19")]
    CompareDigest(CompareDigestMessage),
    #[prost(message, tag = "20")]
    Stopped(StoppedMessage),
    #[prost(message, tag = "21")]
    MassLoss(MassLossMessage),
}

#[derive(Clone, Copy, PartialEq, Message)]
struct TickMessage {}

#[derive(Clone, Copy, PartialEq, Message)]
struct MassLossMessage {}

impl CommandMessage {
    pub(super) fn new(proposed: &Proposed, level: Level) -> Self {
        Self {
            format: level.0,
            epoch: proposed.ticket.epoch.0,
            serial: proposed.ticket.serial,
            kind: Some((&proposed.command).into()),
        }
    }
}

impl TryFrom<CommandMessage> for Proposed {
    type Error = Wrong;

    fn try_from(message: CommandMessage) -> Read<Self> {
        Ok(Self {
            ticket: Ticket {
                epoch: Epoch(message.epoch),
                serial: message.serial,
            },
            command: message.kind.ok_or(Wrong("kind"))?.try_into()?,
        })
    }
}

impl From<&Command> for CommandKind {
    fn from(command: &Command) -> Self {
        match command {
            Command::OpenEpoch(open) => Self::OpenEpoch(open.into()),
            Command::RegisterAgent(register) => Self::RegisterAgent(Box::new(register.into())),
            Command::AgentUnreachable(decision) => Self::AgentUnreachable(decision.into()),
            Command::PruneAgent(decision) => Self::PruneAgent(decision.into()),
            Command::Stopped(stopped) => Self::Stopped(stopped.into()),
            Command::ReconcileAgent(list) => Self::ReconcileAgent(Box::new(list.into())),
            Command::UpdateTasks(report) => Self::UpdateTasks(report.into()),
            Command::Subscribe(subscribe) => Self::Subscribe(Box::new(subscribe.into())),
            Command::DisconnectFramework(decision) => Self::DisconnectFramework(decision.into()),
            Command::ExpireFramework(decision) => Self::ExpireFramework(decision.into()),
            Command::Call(call) => Self::Call(Box::new(call.into())),
            Command::Acknowledge(acknowledge) => Self::Acknowledge(acknowledge.into()),
            Command::RaiseLowWater(raise) => Self::RaiseLowWater(raise.into()),
            Command::Operate(operate) => Self::Operate(operate.into()),
            Command::Sweep(target) => Self::Sweep((*target).into()),
            Command::Tick => Self::Tick(TickMessage {}),
            Command::MassLoss => Self::MassLoss(MassLossMessage {}),
            Command::CompareDigest(compare) => Self::CompareDigest(compare.into()),
        }
    }
}

impl TryFrom<CommandKind> for Command {
    type Error = Wrong;

    fn try_from(kind: CommandKind) -> Read<Self> {
        Ok(match kind {
            CommandKind::OpenEpoch(message) => Self::OpenEpoch(message.try_into()?),
            CommandKind::RegisterAgent(message) => Self::RegisterAgent((*message).try_into()?),
            CommandKind::AgentUnreachable(message) => Self::AgentUnreachable(message.try_into()?),
            CommandKind::PruneAgent(message) => Self::PruneAgent(message.try_into()?),
            CommandKind::Stopped(message) => Self::Stopped(message.try_into()?),
            CommandKind::ReconcileAgent(message) => Self::ReconcileAgent((*message).try_into()?),
            CommandKind::UpdateTasks(message) => Self::UpdateTasks(message.try_into()?),
            CommandKind::Subscribe(message) => Self::Subscribe((*message).try_into()?),
            CommandKind::DisconnectFramework(message) => {
                Self::DisconnectFramework(message.try_into()?)
            }
            CommandKind::ExpireFramework(message) => Self::ExpireFramework(message.try_into()?),
            CommandKind::Call(message) => Self::Call((*message).try_into()?),
            CommandKind::Acknowledge(message) => Self::Acknowledge(message.try_into()?),
            CommandKind::RaiseLowWater(message) => Self::RaiseLowWater(message.into()),
            CommandKind::Operate(message) => Self::Operate(message.try_into()?),
            CommandKind::Sweep(message) => Self::Sweep(message.try_into()?),
            CommandKind::Tick(TickMessage {}) => Self::Tick,
            CommandKind::MassLoss(MassLossMessage {}) => Self::MassLoss,
            CommandKind::CompareDigest(message) => Self::CompareDigest(message.try_into()?),
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct OpenEpochMessage {
    #[prost(uint64, tag = "1")]
    node: u64,
    #[prost(fixed64, tag = "2")]
    process: u64,
    #[prost(uint64, tag = "3")]
    term: u64,
    #[prost(bytes = "vec", tag = "4")]
    entropy: Vec<u8>,
    #[prost(int64, tag = "5")]
    wall_ms: i64,
    #[prost(uint32, tag = "6")]
    format: u32,
}

impl From<&OpenEpoch> for OpenEpochMessage {
    fn from(open: &OpenEpoch) -> Self {
        Self {
            node: open.node.0,
            process: open.process,
            term: open.term,
            entropy: open.entropy.to_vec(),
            wall_ms: open.wall_ms,
            format: open.level.0,
        }
    }
}

impl TryFrom<OpenEpochMessage> for OpenEpoch {
    type Error = Wrong;

    fn try_from(message: OpenEpochMessage) -> Read<Self> {
        Ok(Self {
            node: NodeId(message.node),
            process: message.process,
            term: message.term,
            entropy: message.entropy.try_into().map_err(|_| Wrong("entropy"))?,
            wall_ms: message.wall_ms,
            level: Level(message.format),
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct FrameworkDecisionMessage {
    #[prost(uint64, tag = "1")]
    framework: u64,
    #[prost(message, optional, tag = "2")]
    decided_on: Option<RevisionMessage>,
}

impl From<&FrameworkDecision> for FrameworkDecisionMessage {
    fn from(decision: &FrameworkDecision) -> Self {
        Self {
            framework: decision.framework.0,
            decided_on: Some(decision.decided_on.into()),
        }
    }
}

impl TryFrom<FrameworkDecisionMessage> for FrameworkDecision {
    type Error = Wrong;

    fn try_from(message: FrameworkDecisionMessage) -> Read<Self> {
        Ok(Self {
            framework: FrameworkId(message.framework),
            decided_on: names::revision(message.decided_on)?,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct SubscribeMessage {
    #[prost(uint64, optional, tag = "1")]
    framework: Option<u64>,
    #[prost(fixed64, tag = "2")]
    session: u64,
    #[prost(message, optional, tag = "3")]
    info: Option<FrameworkInfoMessage>,
}

impl From<&Subscribe> for SubscribeMessage {
    fn from(subscribe: &Subscribe) -> Self {
        Self {
            framework: subscribe.framework.map(|id| id.0),
            session: subscribe.session,
            info: Some((&subscribe.info).into()),
        }
    }
}

impl TryFrom<SubscribeMessage> for Subscribe {
    type Error = Wrong;

    fn try_from(message: SubscribeMessage) -> Read<Self> {
        Ok(Self {
            framework: message.framework.map(FrameworkId),
            session: message.session,
            info: message.info.ok_or(Wrong("info"))?.try_into()?,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct AcknowledgeMessage {
    #[prost(uint64, tag = "1")]
    framework: u64,
    #[prost(fixed64, tag = "2")]
    session: u64,
    #[prost(message, repeated, tag = "3")]
    updates: Vec<SeenMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct SeenMessage {
    #[prost(string, tag = "1")]
    task: String,
    #[prost(message, optional, tag = "2")]
    revision: Option<RevisionMessage>,
}

impl From<&Acknowledge> for AcknowledgeMessage {
    fn from(acknowledge: &Acknowledge) -> Self {
        let seen = acknowledge
            .updates
            .iter()
            .map(|(task, revision)| SeenMessage {
                task: task.as_str().to_owned(),
                revision: Some((*revision).into()),
            });
        Self {
            framework: acknowledge.framework.0,
            session: acknowledge.session,
            updates: seen.collect(),
        }
    }
}

impl TryFrom<AcknowledgeMessage> for Acknowledge {
    type Error = Wrong;

    fn try_from(message: AcknowledgeMessage) -> Read<Self> {
        let updates: Read<Vec<_>> = message
            .updates
            .into_iter()
            .map(|seen| Ok((names::task_id(&seen.task)?, names::revision(seen.revision)?)))
            .collect();
        Ok(Self {
            framework: FrameworkId(message.framework),
            session: message.session,
            updates: updates?,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Message)]
struct RaiseLowWaterMessage {
    #[prost(uint64, tag = "1")]
    framework: u64,
    #[prost(fixed64, tag = "2")]
    session: u64,
    #[prost(uint64, tag = "3")]
    to: u64,
}

impl From<&RaiseLowWater> for RaiseLowWaterMessage {
    fn from(raise: &RaiseLowWater) -> Self {
        Self {
            framework: raise.framework.0,
            session: raise.session,
            to: raise.to,
        }
    }
}

impl From<RaiseLowWaterMessage> for RaiseLowWater {
    fn from(message: RaiseLowWaterMessage) -> Self {
        Self {
            framework: FrameworkId(message.framework),
            session: message.session,
            to: message.to,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct CompareDigestMessage {
    #[prost(uint64, tag = "1")]
    index: u64,
    /// 16 bytes, big endian.
    #[prost(bytes = "vec", tag = "2")]
    digest: Vec<u8>,
}

impl From<&CompareDigest> for CompareDigestMessage {
    fn from(compare: &CompareDigest) -> Self {
        Self {
            index: compare.index,
            digest: compare.digest.to_be_bytes().to_vec(),
        }
    }
}

impl TryFrom<CompareDigestMessage> for CompareDigest {
    type Error = Wrong;

    fn try_from(message: CompareDigestMessage) -> Read<Self> {
        let digest = message.digest.try_into().map_err(|_| Wrong("digest"))?;
        Ok(Self {
            index: message.index,
            digest: u128::from_be_bytes(digest),
        })
    }
}
