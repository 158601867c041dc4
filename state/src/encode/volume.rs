//! Volumes of a task, as stored.

use prost::{Message, Oneof};

use super::{Read, Wrong};
use crate::task::{TaskVolume, VolumeSource};

#[derive(Clone, PartialEq, Message)]
pub(super) struct VolumeMessage {
    #[prost(string, tag = "1")]
    container_path: String,
    #[prost(bool, tag = "2")]
    read_only: bool,
    #[prost(oneof = "SourceMessage", tags = "3, 4, 5")]
    source: Option<SourceMessage>,
}

#[derive(Clone, PartialEq, Oneof)]
enum SourceMessage {
    #[prost(string, tag = "3")]
    Sandbox(String),
    #[prost(message, tag = "4")]
    Tmpfs(TmpfsMessage),
    #[prost(string, tag = "5")]
    Secret(String),
}

#[derive(Clone, Copy, PartialEq, Message)]
struct TmpfsMessage {
    #[prost(uint64, tag = "1")]
    bytes: u64,
}

impl From<&TaskVolume> for VolumeMessage {
    fn from(volume: &TaskVolume) -> Self {
        Self {
            container_path: volume.container_path.clone(),
            read_only: volume.read_only,
            source: Some(match &volume.source {
                VolumeSource::Sandbox(path) => SourceMessage::Sandbox(path.clone()),
                VolumeSource::Tmpfs { bytes } => {
                    SourceMessage::Tmpfs(TmpfsMessage { bytes: *bytes })
                }
                VolumeSource::Secret(name) => SourceMessage::Secret(name.clone()),
            }),
        }
    }
}

impl TryFrom<VolumeMessage> for TaskVolume {
    type Error = Wrong;

    fn try_from(message: VolumeMessage) -> Read<Self> {
        Ok(Self {
            container_path: message.container_path,
            read_only: message.read_only,
            source: match message.source.ok_or(Wrong("source of a volume"))? {
                SourceMessage::Sandbox(path) => VolumeSource::Sandbox(path),
                SourceMessage::Tmpfs(TmpfsMessage { bytes }) => VolumeSource::Tmpfs { bytes },
                SourceMessage::Secret(name) => VolumeSource::Secret(name),
            },
        })
    }
}
