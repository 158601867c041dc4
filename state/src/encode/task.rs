//! Tasks as stored.

use std::collections::BTreeMap;

use prost::{Message, Oneof};

use super::checks::{CheckMessage, HealthCheckMessage, StandingMessage, standing, standing_from};
use super::names::{self, RevisionMessage, TaskKeyMessage};
use super::numbers::Numbered;
use super::resources::{self, ResourcesMessage};
use super::{Read, Wrong};
use crate::ids::{AgentId, OrderIndex, TaskKey};
use crate::task::{
    Container, Exit, FinishedTask, HostPath, Kill, Network, PublishedPort, Run, Task, TaskSpec,
    Update, Uri,
};

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
}

#[derive(Clone, PartialEq, Oneof)]
enum RunMessage {
    #[prost(string, tag = "4")]
    Shell(String),
    #[prost(message, tag = "5")]
    Argv(ArgvMessage),
    #[prost(message, tag = "14")]
    Image(ImageMessage),
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ImageMessage {}

/// Absent means the default.
#[derive(Clone, PartialEq, Message)]
struct ContainerMessage {
    #[prost(string, tag = "1")]
    image: String,
    /// Absent means the host's.
    #[prost(oneof = "NetworkMessage", tags = "2, 3")]
    network: Option<NetworkMessage>,
}

#[derive(Clone, PartialEq, Oneof)]
enum NetworkMessage {
    #[prost(message, tag = "2")]
    None(NoNetworkMessage),
    #[prost(message, tag = "3")]
    Bridge(BridgeMessage),
}

#[derive(Clone, Copy, PartialEq, Message)]
struct NoNetworkMessage {}

#[derive(Clone, PartialEq, Message)]
struct BridgeMessage {
    #[prost(message, repeated, tag = "1")]
    published: Vec<PublishedPortMessage>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct PublishedPortMessage {
    #[prost(uint32, tag = "1")]
    host: u32,
    #[prost(uint32, tag = "2")]
    container: u32,
    #[prost(bool, tag = "3")]
    udp: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ArgvMessage {
    #[prost(string, repeated, tag = "1")]
    words: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct UriMessage {
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
            run: Some(match &spec.run {
                Run::Image => RunMessage::Image(ImageMessage {}),
                Run::Shell(line) => RunMessage::Shell(line.clone()),
                Run::Argv(words) => RunMessage::Argv(ArgvMessage {
                    words: words.clone(),
                }),
            }),
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
            run: match message.run.ok_or(Wrong("command to run"))? {
                RunMessage::Shell(line) => Run::Shell(line),
                RunMessage::Argv(argv) => Run::Argv(argv.words),
                RunMessage::Image(ImageMessage {}) => Run::Image,
            },
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
        })
    }
}

/// A part that most descriptions do not have.
fn boxed<M, T: TryFrom<M, Error = Wrong>>(message: Option<M>) -> Read<Option<Box<T>>> {
    message
        .map(|part| part.try_into().map(Box::new))
        .transpose()
}

impl From<&Container> for ContainerMessage {
    fn from(container: &Container) -> Self {
        let network = match &container.network {
            Network::Host => None,
            Network::None => Some(NetworkMessage::None(NoNetworkMessage {})),
            Network::Bridge(ports) => {
                let published = ports.iter().map(|port| PublishedPortMessage {
                    host: port.host.into(),
                    container: port.container.into(),
                    udp: port.udp,
                });
                Some(NetworkMessage::Bridge(BridgeMessage {
                    published: published.collect(),
                }))
            }
        };
        Self {
            image: container.image.clone(),
            network,
        }
    }
}

impl TryFrom<ContainerMessage> for Container {
    type Error = Wrong;

    fn try_from(message: ContainerMessage) -> Read<Self> {
        let port = |number: u32| u16::try_from(number).map_err(|_| Wrong("published port"));
        let network = match message.network {
            None => Network::Host,
            Some(NetworkMessage::None(NoNetworkMessage {})) => Network::None,
            Some(NetworkMessage::Bridge(bridge)) => {
                let ports = bridge.published.into_iter().map(|published| {
                    Ok(PublishedPort {
                        host: port(published.host)?,
                        container: port(published.container)?,
                        udp: published.udp,
                    })
                });
                Network::Bridge(ports.collect::<Read<_>>()?)
            }
        };
        Ok(Self {
            image: message.image,
            network,
        })
    }
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
