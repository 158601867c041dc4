//! Ids and revisions inside of messages.

use prost::Message;

use super::{Read, Wrong};
use crate::ids::{Epoch, FrameworkId, OfferId, Revision, Role, TaskId, TaskKey};

#[derive(Clone, PartialEq, Message)]
pub(super) struct RevisionMessage {
    #[prost(uint64, tag = "1")]
    index: u64,
    #[prost(uint32, tag = "2")]
    position: u32,
}

impl From<Revision> for RevisionMessage {
    fn from(revision: Revision) -> Self {
        Self {
            index: revision.index,
            position: revision.position,
        }
    }
}

impl From<RevisionMessage> for Revision {
    fn from(message: RevisionMessage) -> Self {
        Self {
            index: message.index,
            position: message.position,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OfferIdMessage {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(uint64, tag = "2")]
    serial: u64,
}

impl From<OfferId> for OfferIdMessage {
    fn from(id: OfferId) -> Self {
        Self {
            epoch: id.epoch.0,
            serial: id.serial,
        }
    }
}

impl From<OfferIdMessage> for OfferId {
    fn from(message: OfferIdMessage) -> Self {
        Self {
            epoch: Epoch(message.epoch),
            serial: message.serial,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TaskKeyMessage {
    #[prost(uint64, tag = "1")]
    framework: u64,
    #[prost(string, tag = "2")]
    task: String,
}

impl From<&TaskKey> for TaskKeyMessage {
    fn from(key: &TaskKey) -> Self {
        Self {
            framework: key.framework.0,
            task: key.task.as_str().to_owned(),
        }
    }
}

impl TryFrom<TaskKeyMessage> for TaskKey {
    type Error = Wrong;

    fn try_from(message: TaskKeyMessage) -> Read<Self> {
        Ok(Self {
            framework: FrameworkId(message.framework),
            task: task_id(&message.task)?,
        })
    }
}

pub(super) fn task_id(text: &str) -> Read<TaskId> {
    TaskId::new(text).map_err(|_| Wrong("task id"))
}

pub(super) fn role(text: &str) -> Read<Role> {
    Role::new(text).map_err(|_| Wrong("role"))
}

pub(super) fn revision(message: Option<RevisionMessage>) -> Read<Revision> {
    message.map(Into::into).ok_or(Wrong("revision"))
}
