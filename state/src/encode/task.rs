//! Tasks as stored.

use prost::{Message, Oneof};

use super::checks::{StandingMessage, standing, standing_from};
use super::limits::LimitsChangeMessage;
use super::names::{self, RevisionMessage, TaskKeyMessage};
use super::numbers::Numbered;
use super::task_spec::TaskSpecMessage;
use super::{Read, Wrong};
use crate::ids::{AgentId, OrderIndex, TaskKey};
use crate::task::{Exit, FinishedTask, Kill, Task, TaskSpec, Update};

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExitMessage {
    #[prost(oneof = "ExitKind", tags = "1, 2")]
    kind: Option<ExitKind>,
}

#[derive(Clone, Copy, PartialEq, Oneof)]
enum ExitKind {
    #[prost(sint32, tag = "1")]
    Code(i32),
    #[prost(sint32, tag = "2")]
    Signal(i32),
}

impl From<Exit> for ExitMessage {
    fn from(exit: Exit) -> Self {
        Self {
            kind: Some(match exit {
                Exit::Code(code) => ExitKind::Code(code),
                Exit::Signal(signal) => ExitKind::Signal(signal),
            }),
        }
    }
}

pub(super) fn exit(message: Option<ExitMessage>) -> Read<Option<Exit>> {
    let Some(message) = message else {
        return Ok(None);
    };
    Ok(Some(match message.kind.ok_or(Wrong("exit"))? {
        ExitKind::Code(code) => Exit::Code(code),
        ExitKind::Signal(signal) => Exit::Signal(signal),
    }))
}

#[derive(Clone, PartialEq, Message)]
struct UpdateMessage {
    #[prost(message, optional, tag = "1")]
    revision: Option<RevisionMessage>,
    #[prost(uint32, tag = "2")]
    state: u32,
    #[prost(uint32, tag = "3")]
    source: u32,
    #[prost(uint32, tag = "4")]
    reason: u32,
    #[prost(string, tag = "5")]
    message: String,
    #[prost(message, optional, tag = "6")]
    exit: Option<ExitMessage>,
    #[prost(int64, tag = "7")]
    wall_ms: i64,
    #[prost(message, optional, tag = "8")]
    standing: Option<StandingMessage>,
    #[prost(bool, tag = "20")]
    stopped: bool,
}

impl From<&Update> for UpdateMessage {
    fn from(update: &Update) -> Self {
        Self {
            revision: Some(update.revision.into()),
            state: update.state.number(),
            source: update.source.number(),
            reason: update.reason.number(),
            message: update.message.clone(),
            exit: update.exit.map(Into::into),
            wall_ms: update.wall_ms,
            standing: standing(update.standing),
            stopped: update.stopped,
        }
    }
}

impl TryFrom<UpdateMessage> for Update {
    type Error = Wrong;

    fn try_from(message: UpdateMessage) -> Read<Self> {
        Ok(Self {
            revision: names::revision(message.revision)?,
            state: Numbered::of(message.state)?,
            source: Numbered::of(message.source)?,
            reason: Numbered::of(message.reason)?,
            message: message.message,
            exit: exit(message.exit)?,
            standing: standing_from(message.standing),
            stopped: message.stopped,
            wall_ms: message.wall_ms,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct KillMessage {
    #[prost(uint64, tag = "1")]
    order: u64,
    #[prost(uint64, tag = "2")]
    grace_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TaskRecord {
    #[prost(message, optional, tag = "1")]
    key: Option<TaskKeyMessage>,
    #[prost(uint64, tag = "2")]
    agent: u64,
    #[prost(string, tag = "3")]
    role: String,
    #[prost(uint64, tag = "4")]
    order: u64,
    #[prost(message, optional, tag = "5")]
    spec: Option<TaskSpecMessage>,
    #[prost(message, optional, tag = "6")]
    kill: Option<KillMessage>,
    #[prost(uint32, tag = "7")]
    state: u32,
    #[prost(uint32, tag = "8")]
    agent_state: u32,
    #[prost(uint64, tag = "9")]
    reported: u64,
    #[prost(message, optional, tag = "10")]
    latest: Option<UpdateMessage>,
    #[prost(message, repeated, tag = "11")]
    unacknowledged: Vec<UpdateMessage>,
    #[prost(message, optional, tag = "12")]
    revision: Option<RevisionMessage>,
    #[prost(message, optional, tag = "13")]
    standing: Option<StandingMessage>,
    #[prost(message, optional, tag = "40")]
    limits_change: Option<LimitsChangeMessage>,
}

impl From<&Task> for TaskRecord {
    fn from(task: &Task) -> Self {
        Self {
            key: Some((&task.key).into()),
            agent: task.agent.0,
            role: task.role.as_str().to_owned(),
            order: task.order.0,
            spec: Some((&task.spec).into()),
            kill: task.kill.map(|kill| KillMessage {
                order: kill.order.0,
                grace_ms: kill.grace_ms,
            }),
            state: task.state.number(),
            agent_state: task.agent_state.number(),
            reported: task.reported,
            latest: Some((&task.latest).into()),
            unacknowledged: task.unacknowledged.iter().map(Into::into).collect(),
            revision: Some(task.revision.into()),
            standing: standing(task.standing),
            limits_change: task.limits_change.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<TaskRecord> for Task {
    type Error = Wrong;

    fn try_from(record: TaskRecord) -> Read<Self> {
        let key: TaskKey = record.key.ok_or(Wrong("key"))?.try_into()?;
        let spec: TaskSpec = record.spec.ok_or(Wrong("description"))?.try_into()?;
        if spec.task != key.task {
            return Err(Wrong("task id in its description"));
        }
        let unacknowledged: Read<Vec<Update>> = record
            .unacknowledged
            .into_iter()
            .map(TryInto::try_into)
            .collect();
        Ok(Self {
            key,
            agent: AgentId(record.agent),
            role: names::role(&record.role)?,
            order: OrderIndex(record.order),
            spec,
            kill: record.kill.map(|kill| Kill {
                order: OrderIndex(kill.order),
                grace_ms: kill.grace_ms,
            }),
            limits_change: record.limits_change.map(TryInto::try_into).transpose()?,
            state: Numbered::of(record.state)?,
            agent_state: Numbered::of(record.agent_state)?,
            standing: standing_from(record.standing),
            reported: record.reported,
            latest: record.latest.ok_or(Wrong("latest update"))?.try_into()?,
            unacknowledged: unacknowledged?,
            revision: names::revision(record.revision)?,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FinishedTaskRecord {
    #[prost(message, optional, tag = "1")]
    task: Option<TaskRecord>,
}

impl From<&FinishedTask> for FinishedTaskRecord {
    fn from(finished: &FinishedTask) -> Self {
        Self {
            task: Some((&finished.task).into()),
        }
    }
}

impl TryFrom<FinishedTaskRecord> for FinishedTask {
    type Error = Wrong;

    fn try_from(record: FinishedTaskRecord) -> Read<Self> {
        Ok(Self {
            task: record.task.ok_or(Wrong("task"))?.try_into()?,
        })
    }
}
