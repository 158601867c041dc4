//! The place of a task in its group, as stored.

use prost::Message;

use super::{Read, Wrong};
use crate::ids::GroupId;
use crate::task::TaskGroup;

#[derive(Clone, PartialEq, Message)]
pub(super) struct GroupMessage {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(uint32, tag = "2")]
    place: u32,
    #[prost(uint32, tag = "3")]
    size: u32,
}

impl From<&TaskGroup> for GroupMessage {
    fn from(group: &TaskGroup) -> Self {
        Self {
            id: group.id.as_str().to_owned(),
            place: group.place,
            size: group.size,
        }
    }
}

impl TryFrom<GroupMessage> for TaskGroup {
    type Error = Wrong;

    fn try_from(message: GroupMessage) -> Read<Self> {
        Ok(Self {
            id: GroupId::new(&message.id).map_err(|_| Wrong("group id"))?,
            place: message.place,
            size: message.size,
        })
    }
}
