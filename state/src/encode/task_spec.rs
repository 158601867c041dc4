//! What frameworks ask for, as stored.

use std::collections::BTreeMap;

use prost::{Message, Oneof};

use super::checks::{CheckMessage, HealthCheckMessage};
use super::container::ContainerMessage;
use super::executor::ExecutorSpecMessage;
use super::group::GroupMessage;
use super::limits::LimitsMessage;
use super::names;
use super::resources::{self, ResourcesMessage};
use super::volume::VolumeMessage;
use super::{Read, Wrong};
use crate::task::{Container, HostPath, KillSignal, Run, TaskSpec, Uri};

#[derive(Clone, PartialEq, Message)]
pub(super) struct TaskSpecMessage {
    #[prost(string, tag = "1")]
    task: String,
    #[prost(string, tag = "2")]
    name: String,
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
    #[prost(message, repeated, tag = "9")]
    host_paths: Vec<HostPathMessage>,
    #[prost(uint64, tag = "10")]
    grace_ms: u64,
    #[prost(btree_map = "string, string", tag = "11")]
    labels: BTreeMap<String, String>,
    #[prost(uint64, tag = "12")]
    max_completion_ms: u64,
    #[prost(uint64, tag = "13")]
    stop_after_ms: u64,
    #[prost(message, optional, tag = "15")]
    container: Option<ContainerMessage>,
    #[prost(message, optional, tag = "16")]
    health_check: Option<HealthCheckMessage>,
    #[prost(message, optional, tag = "17")]
    readiness_check: Option<CheckMessage>,
    #[prost(message, repeated, tag = "20")]
    volumes: Vec<VolumeMessage>,
    #[prost(message, optional, tag = "26")]
    limits: Option<LimitsMessage>,
    #[prost(bool, tag = "28")]
    tty: bool,
    #[prost(bool, tag = "29")]
    stdin: bool,
    #[prost(message, optional, tag = "24")]
    executor: Option<ExecutorSpecMessage>,
    #[prost(message, optional, tag = "22")]
    group: Option<GroupMessage>,
    /// Its number; 0: none is named.
    #[prost(uint32, tag = "30")]
    kill_signal: u32,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum RunMessage {
    #[prost(string, tag = "4")]
    Shell(String),
    #[prost(message, tag = "5")]
    Argv(ArgvMessage),
    #[prost(message, tag = "14")]
    Image(ImageMessage),
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct ImageMessage {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ArgvMessage {
    #[prost(string, repeated, tag = "1")]
    words: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct UriMessage {
    #[prost(string, tag = "1")]
    value: String,
    #[prost(bool, tag = "2")]
    executable: bool,
    #[prost(string, tag = "3")]
    output_file: String,
    #[prost(bool, tag = "4")]
    extract: bool,
    #[prost(string, tag = "5")]
    sha256: String,
    #[prost(bool, tag = "6")]
    cache: bool,
}

#[derive(Clone, PartialEq, Message)]
struct HostPathMessage {
    #[prost(string, tag = "1")]
    host_path: String,
    #[prost(string, tag = "2")]
    container_path: String,
    #[prost(bool, tag = "3")]
    read_only: bool,
}

impl From<&TaskSpec> for TaskSpecMessage {
    fn from(spec: &TaskSpec) -> Self {
        Self {
            task: spec.task.as_str().to_owned(),
            name: spec.name.clone(),
            resources: Some((&spec.resources).into()),
            run: Some(run(&spec.run)),
            environment: spec.environment.clone(),
            user: spec.user.clone(),
            uris: spec.uris.iter().map(Into::into).collect(),
            host_paths: spec.host_paths.iter().map(Into::into).collect(),
            grace_ms: spec.grace_ms,
            labels: spec.labels.clone(),
            max_completion_ms: spec.max_completion_ms,
            stop_after_ms: spec.stop_after_ms,
            container: (spec.container != Container::default()).then(|| (&spec.container).into()),
            health_check: spec.health_check.as_deref().map(Into::into),
            readiness_check: spec.readiness_check.as_deref().map(Into::into),
            volumes: spec.volumes.iter().map(Into::into).collect(),
            limits: spec.limits.as_deref().map(Into::into),
            tty: spec.tty,
            stdin: spec.stdin,
            executor: spec.executor.as_deref().map(Into::into),
            group: spec.group.as_deref().map(Into::into),
            kill_signal: spec.kill_signal.map_or(0, KillSignal::number),
        }
    }
}

impl TryFrom<TaskSpecMessage> for TaskSpec {
    type Error = Wrong;

    fn try_from(message: TaskSpecMessage) -> Read<Self> {
        Ok(Self {
            task: names::task_id(&message.task)?,
            name: message.name,
            resources: resources::required(message.resources)?,
            run: run_from(message.run)?,
            container: match message.container {
                Some(container) => container.try_into()?,
                None => Container::default(),
            },
            environment: message.environment,
            user: message.user,
            uris: message.uris.into_iter().map(Into::into).collect(),
            host_paths: message.host_paths.into_iter().map(Into::into).collect(),
            grace_ms: message.grace_ms,
            labels: message.labels,
            max_completion_ms: message.max_completion_ms,
            stop_after_ms: message.stop_after_ms,
            health_check: boxed(message.health_check)?,
            readiness_check: boxed(message.readiness_check)?,
            volumes: message
                .volumes
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Read<_>>()?,
            limits: boxed(message.limits)?,
            tty: message.tty,
            stdin: message.stdin,
            executor: boxed(message.executor)?,
            group: boxed(message.group)?,
            kill_signal: match message.kill_signal {
                0 => None,
                number => Some(KillSignal::of(number).ok_or(Wrong("signal of a kill"))?),
            },
        })
    }
}

pub(super) fn run(run: &Run) -> RunMessage {
    match run {
        Run::Image => RunMessage::Image(ImageMessage {}),
        Run::Shell(line) => RunMessage::Shell(line.clone()),
        Run::Argv(words) => RunMessage::Argv(ArgvMessage {
            words: words.clone(),
        }),
    }
}

pub(super) fn run_from(message: Option<RunMessage>) -> Read<Run> {
    Ok(match message.ok_or(Wrong("command to run"))? {
        RunMessage::Shell(line) => Run::Shell(line),
        RunMessage::Argv(argv) => Run::Argv(argv.words),
        RunMessage::Image(ImageMessage {}) => Run::Image,
    })
}

/// A part that most descriptions do not have.
fn boxed<M, T: TryFrom<M, Error = Wrong>>(message: Option<M>) -> Read<Option<Box<T>>> {
    message
        .map(|part| part.try_into().map(Box::new))
        .transpose()
}

impl From<&Uri> for UriMessage {
    fn from(uri: &Uri) -> Self {
        Self {
            value: uri.value.clone(),
            executable: uri.executable,
            output_file: uri.output_file.clone(),
            extract: uri.extract,
            sha256: uri.sha256.clone(),
            cache: uri.cache,
        }
    }
}

impl From<UriMessage> for Uri {
    fn from(message: UriMessage) -> Self {
        Self {
            value: message.value,
            executable: message.executable,
            output_file: message.output_file,
            extract: message.extract,
            sha256: message.sha256,
            cache: message.cache,
        }
    }
}

impl From<&HostPath> for HostPathMessage {
    fn from(path: &HostPath) -> Self {
        Self {
            host_path: path.host_path.clone(),
            container_path: path.container_path.clone(),
            read_only: path.read_only,
        }
    }
}

impl From<HostPathMessage> for HostPath {
    fn from(message: HostPathMessage) -> Self {
        Self {
            host_path: message.host_path,
            container_path: message.container_path,
            read_only: message.read_only,
        }
    }
}
