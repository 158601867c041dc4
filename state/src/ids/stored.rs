//! Stored forms of ids, keys and revisions.

use std::borrow::Cow;

use super::{
    AgentId, ClusterId, Epoch, FrameworkId, GroupId, NodeId, OfferId, OrderIndex, Revision, Role,
    TaskId, TaskKey, Timestamp,
};
use crate::codec::scalars::{AsBytes, AsNumber, AsText};
use crate::codec::stored::stored;

macro_rules! number {
    ($($name:ident),+) => {$(
        impl AsNumber for $name {
            fn number(&self) -> u64 {
                self.0
            }

            fn of(number: u64) -> Option<Self> {
                Some(Self(number))
            }
        }
    )+};
}

number!(AgentId, FrameworkId, NodeId, Epoch, Timestamp, OrderIndex);

macro_rules! text {
    ($($name:ident),+) => {$(
        impl AsText for $name {
            fn text(&self) -> &str {
                self.as_str()
            }

            fn of(text: &str) -> Option<Self> {
                Self::new(text).ok()
            }
        }
    )+};
}

text!(TaskId, Role, GroupId);

impl AsBytes for ClusterId {
    fn bytes(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.0.to_be_bytes().to_vec())
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        AsBytes::of(bytes).map(Self)
    }
}

stored!(message Revision {
    1 index: Number,
    2 position: Number,
});

stored!(message OfferId {
    1 epoch: Number,
    2 serial: Number,
});

stored!(message TaskKey {
    1 framework: Number,
    2 task: Text or "task id",
});

stored!(message Timestamp as (Timestamp(time)) {
    1 time: Number,
});
