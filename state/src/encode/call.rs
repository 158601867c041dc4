//! Numbered calls of frameworks as they stand in the log.

use prost::{Message, Oneof};

use super::framework::{FrameworkInfoMessage, roles, texts};
use super::limits::{self, LimitsMessage};
use super::names::{self, OfferIdMessage, RevisionMessage};
use super::resources::{self, ResourcesMessage};
use super::task_spec::TaskSpecMessage;
use super::{Read, Wrong};
use crate::command::{Accept, Call, CallAction, Promise};
use crate::ids::{AgentId, FrameworkId, Timestamp};
use crate::task::TaskSpec;

#[derive(Clone, PartialEq, Message)]
pub(super) struct CallMessage {
    #[prost(uint64, tag = "1")]
    framework: u64,
    #[prost(fixed64, tag = "2")]
    session: u64,
    #[prost(uint64, tag = "3")]
    number: u64,
    #[prost(uint64, tag = "4")]
    lowest_unanswered: u64,
    #[prost(fixed64, tag = "5")]
    hash: u64,
    #[prost(oneof = "ActionMessage", tags = "6, 7, 8, 9, 10, 11, 40")]
    action: Option<ActionMessage>,
}

#[derive(Clone, PartialEq, Oneof)]
enum ActionMessage {
    #[prost(message, tag = "6")]
    Accept(AcceptMessage),
    #[prost(message, tag = "7")]
    Kill(KillMessage),
    #[prost(message, tag = "8")]
    Suppress(RolesMessage),
    #[prost(message, tag = "9")]
    Revive(RolesMessage),
    #[prost(message, tag = "10")]
    Update(Box<FrameworkInfoMessage>),
    #[prost(message, tag = "11")]
    Teardown(TeardownMessage),
    #[prost(message, tag = "40")]
    UpdateLimits(UpdateLimitsMessage),
}

#[derive(Clone, PartialEq, Message)]
struct KillMessage {
    #[prost(string, tag = "1")]
    task: String,
    #[prost(uint64, optional, tag = "2")]
    grace_ms: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct UpdateLimitsMessage {
    #[prost(string, tag = "1")]
    task: String,
    #[prost(message, optional, tag = "2")]
    limits: Option<LimitsMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct RolesMessage {
    #[prost(string, repeated, tag = "1")]
    roles: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct TeardownMessage {}

impl From<&Call> for CallMessage {
    fn from(call: &Call) -> Self {
        Self {
            framework: call.framework.0,
            session: call.session,
            number: call.number,
            lowest_unanswered: call.lowest_unanswered,
            hash: call.hash,
            action: Some((&call.action).into()),
        }
    }
}

impl TryFrom<CallMessage> for Call {
    type Error = Wrong;

    fn try_from(message: CallMessage) -> Read<Self> {
        Ok(Self {
            framework: FrameworkId(message.framework),
            session: message.session,
            number: message.number,
            lowest_unanswered: message.lowest_unanswered,
            hash: message.hash,
            action: message.action.ok_or(Wrong("action"))?.try_into()?,
        })
    }
}

impl From<&CallAction> for ActionMessage {
    fn from(action: &CallAction) -> Self {
        match action {
            CallAction::Accept(accept) => Self::Accept(accept.into()),
            CallAction::Kill { task, grace_ms } => Self::Kill(KillMessage {
                task: task.as_str().to_owned(),
                grace_ms: *grace_ms,
            }),
            CallAction::UpdateLimits { task, limits } => Self::UpdateLimits(UpdateLimitsMessage {
                task: task.as_str().to_owned(),
                limits: Some(limits.into()),
            }),
            CallAction::Suppress(roles) => Self::Suppress(RolesMessage {
                roles: texts(roles),
            }),
            CallAction::Revive(roles) => Self::Revive(RolesMessage {
                roles: texts(roles),
            }),
            CallAction::Update(info) => Self::Update(Box::new(info.into())),
            CallAction::Teardown => Self::Teardown(TeardownMessage {}),
        }
    }
}

impl TryFrom<ActionMessage> for CallAction {
    type Error = Wrong;

    fn try_from(message: ActionMessage) -> Read<Self> {
        Ok(match message {
            ActionMessage::Accept(accept) => Self::Accept(accept.try_into()?),
            ActionMessage::Kill(kill) => Self::Kill {
                task: names::task_id(&kill.task)?,
                grace_ms: kill.grace_ms,
            },
            ActionMessage::UpdateLimits(update) => Self::UpdateLimits {
                task: names::task_id(&update.task)?,
                limits: limits::required(update.limits)?,
            },
            ActionMessage::Suppress(message) => Self::Suppress(roles(&message.roles)?),
            ActionMessage::Revive(message) => Self::Revive(roles(&message.roles)?),
            ActionMessage::Update(info) => Self::Update((*info).try_into()?),
            ActionMessage::Teardown(TeardownMessage {}) => Self::Teardown,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct AcceptMessage {
    #[prost(message, repeated, tag = "1")]
    offers: Vec<PromiseMessage>,
    #[prost(message, repeated, tag = "2")]
    launches: Vec<TaskSpecMessage>,
    #[prost(bool, tag = "3")]
    all_or_nothing: bool,
    #[prost(int64, tag = "4")]
    wall_ms: i64,
}

impl From<&Accept> for AcceptMessage {
    fn from(accept: &Accept) -> Self {
        Self {
            offers: accept.offers.iter().map(Into::into).collect(),
            launches: accept.launches.iter().map(Into::into).collect(),
            all_or_nothing: accept.all_or_nothing,
            wall_ms: accept.wall_ms,
        }
    }
}

impl TryFrom<AcceptMessage> for Accept {
    type Error = Wrong;

    fn try_from(message: AcceptMessage) -> Read<Self> {
        let offers: Read<Vec<Promise>> =
            message.offers.into_iter().map(TryInto::try_into).collect();
        let launches: Read<Vec<TaskSpec>> = message
            .launches
            .into_iter()
            .map(TryInto::try_into)
            .collect();
        Ok(Self {
            offers: offers?,
            launches: launches?,
            all_or_nothing: message.all_or_nothing,
            wall_ms: message.wall_ms,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct PromiseMessage {
    #[prost(message, optional, tag = "1")]
    id: Option<OfferIdMessage>,
    #[prost(uint64, tag = "2")]
    framework: u64,
    #[prost(fixed64, tag = "3")]
    session: u64,
    #[prost(uint64, tag = "4")]
    agent: u64,
    #[prost(string, tag = "5")]
    role: String,
    #[prost(message, optional, tag = "6")]
    resources: Option<ResourcesMessage>,
    #[prost(message, optional, tag = "7")]
    promise: Option<RevisionMessage>,
    #[prost(uint64, tag = "8")]
    expires: u64,
}

impl From<&Promise> for PromiseMessage {
    fn from(promise: &Promise) -> Self {
        Self {
            id: Some(promise.id.into()),
            framework: promise.framework.0,
            session: promise.session,
            agent: promise.agent.0,
            role: promise.role.as_str().to_owned(),
            resources: Some((&promise.resources).into()),
            promise: Some(promise.promise.into()),
            expires: promise.expires.0,
        }
    }
}

impl TryFrom<PromiseMessage> for Promise {
    type Error = Wrong;

    fn try_from(message: PromiseMessage) -> Read<Self> {
        Ok(Self {
            id: message.id.ok_or(Wrong("offer id"))?.into(),
            framework: FrameworkId(message.framework),
            session: message.session,
            agent: AgentId(message.agent),
            role: names::role(&message.role)?,
            resources: resources::required(message.resources)?,
            promise: names::revision(message.promise)?,
            expires: Timestamp(message.expires),
        })
    }
}
