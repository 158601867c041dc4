//! Executors of tasks, as stored: the fields of a description that they share have its numbers.

use std::collections::BTreeMap;

use prost::Message;

use super::container::ContainerMessage;
use super::names;
use super::resources::{self, ResourcesMessage};
use super::task_spec::{RunMessage, UriMessage, run, run_from};
use super::{Read, Wrong};
use crate::task::{Container, ExecutorSpec};

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExecutorSpecMessage {
    #[prost(string, tag = "1")]
    executor: String,
    #[prost(message, optional, tag = "3")]
    resources: Option<ResourcesMessage>,
    #[prost(oneof = "RunMessage", tags = "4, 5, 14")]
    run: Option<RunMessage>,
    #[prost(btree_map = "string, string", tag = "6")]
    environment: BTreeMap<String, String>,
    #[prost(string, tag = "7")]
    user: String,
    #[prost(message, repeated, tag = "8")]
    uris: Vec<UriMessage>,
    #[prost(uint64, tag = "10")]
    grace_ms: u64,
    #[prost(message, optional, tag = "15")]
    container: Option<ContainerMessage>,
}

impl From<&ExecutorSpec> for ExecutorSpecMessage {
    fn from(spec: &ExecutorSpec) -> Self {
        Self {
            executor: spec.executor.to_string(),
            resources: Some((&spec.resources).into()),
            run: Some(run(&spec.run)),
            environment: spec.environment.clone(),
            user: spec.user.clone(),
            uris: spec.uris.iter().map(Into::into).collect(),
            grace_ms: spec.grace_ms,
            container: (spec.container != Container::default()).then(|| (&spec.container).into()),
        }
    }
}

impl TryFrom<ExecutorSpecMessage> for ExecutorSpec {
    type Error = Wrong;

    fn try_from(message: ExecutorSpecMessage) -> Read<Self> {
        Ok(Self {
            executor: names::task_id(&message.executor)?,
            resources: resources::required(message.resources)?,
            run: run_from(message.run)?,
            container: match message.container {
                Some(container) => container.try_into()?,
                None => Container::default(),
            },
            environment: message.environment,
            user: message.user,
            uris: message.uris.into_iter().map(Into::into).collect(),
            grace_ms: message.grace_ms,
        })
    }
}
