//! Requests of an agent to its broker, and the replies.
//!
//! They name containers, tasks and layers. A path in a request is compared with those that the
//! broker computes itself.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use argosy_isolation::disk::DiskUsage;
use argosy_isolation::limits::{MissingControllers, MissingPolicy};
use argosy_isolation::reach_filter::BlockedDestinations;
use argosy_isolation::unpack::{ArchiveFormat, UnpackLimits};
use argosy_isolation::{ContainerUser, Exit, Handle, HostPath, LaunchSpec, Limits, RootFs};
use argosy_network::{LinkStats, PortPublication};
use argosy_proto::v1;
use argosy_state::ids::TaskKey;
use serde::{Deserialize, Serialize};

use crate::core::{ContainerName, InvalidContainerName, task_key};
use crate::host::HostFeatures;
use crate::sandbox::HostPathUser;

impl From<ContainerName> for String {
    fn from(name: ContainerName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for ContainerName {
    type Error = InvalidContainerName;

    fn try_from(text: String) -> Result<Self, InvalidContainerName> {
        text.parse()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskContainer {
    framework: String,
    task: String,
    pub(crate) name: ContainerName,
}

impl TaskContainer {
    pub(crate) fn new(key: &TaskKey, name: ContainerName) -> Self {
        Self {
            framework: key.framework.to_string(),
            task: key.task.to_string(),
            name,
        }
    }

    /// Returns the task, if the names are valid.
    pub(crate) fn key(&self) -> Result<TaskKey, String> {
        task_key(&self.framework, &self.task)
            .ok_or_else(|| format!("{:?} is not a task of {:?}", self.task, self.framework))
    }
}

/// Ports and services that tasks must not connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlockedEndpoints {
    pub(crate) ports: Vec<u16>,
    pub(crate) metadata: bool,
}

impl BlockedEndpoints {
    /// Adds the ports and services of `more`.
    pub(crate) fn join(&mut self, more: Self) {
        self.ports.extend(more.ports);
        self.ports.sort_unstable();
        self.ports.dedup();
        self.metadata |= more.metadata;
    }

    pub(crate) fn closed(&self) -> BlockedDestinations {
        BlockedDestinations {
            ports: self.ports.clone(),
            metadata: self.metadata,
        }
    }
}

/// A host path that a task requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostPathRequest {
    pub(crate) host_path: String,
    pub(crate) container_path: String,
    pub(crate) read_only: bool,
}

impl From<&v1::HostPath> for HostPathRequest {
    fn from(wire: &v1::HostPath) -> Self {
        Self {
            host_path: wire.host_path.clone(),
            container_path: wire.container_path.clone(),
            read_only: wire.read_only,
        }
    }
}

impl From<HostPathRequest> for v1::HostPath {
    fn from(wanted: HostPathRequest) -> Self {
        let HostPathRequest {
            host_path,
            container_path,
            read_only,
        } = wanted;
        Self {
            host_path,
            container_path,
            read_only,
        }
    }
}

/// The target of an unpack request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum UnpackTarget {
    /// The directory of a layer that is being created.
    Layer { draft: String },
    /// The directory passed as the second descriptor, for this user and group.
    Files { uid: u32, gid: u32 },
}

/// A change in the directory of layers. Names are single file names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LayerChange {
    Create { draft: String },
    Describe { draft: String, json: Vec<u8> },
    Rename { from: String, to: String },
    Remove { name: String },
}

/// One part of a disk measurement of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MeasureStep {
    /// The id of a measurement that an earlier step has begun.
    pub(crate) pass: Option<u64>,
    pub(crate) directories: Vec<PathBuf>,
    /// The container whose processes are scanned, too.
    pub(crate) processes: Option<ContainerName>,
    pub(crate) until_cost: u64,
    pub(crate) enough_bytes: u64,
}

/// The progress of a disk measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ScanProgress {
    /// This many bytes were found, and the scan is not complete.
    Unfinished(u64),
    /// This many bytes were found in total.
    Done(u64),
    /// Directories are nested too deeply.
    TooDeep,
}

/// The state of a disk measurement after one part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ScanState {
    pub(crate) progress: ScanProgress,
    /// The cost so far, in entries.
    pub(crate) cost: u64,
    /// Number of descriptors that it holds while suspended.
    pub(crate) held: usize,
}

impl ScanState {
    /// Whether the measurement is not complete.
    pub(crate) fn is_incomplete(self) -> bool {
        matches!(self.progress, ScanProgress::Unfinished(_))
    }
}

/// The users whose disk usage the kernel limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum QuotaScope {
    /// None: usage is measured.
    None,
    /// A quota: limits the container's users, but not root of the host, who writes its output.
    Users,
    /// A dedicated file system: limits all users.
    All,
}

impl QuotaScope {
    /// Returns the measured usage that exceeds the limit. The stored output is added to a quota;
    /// usage beyond that means that the task keeps output under other names. `None` if the limit
    /// cannot be exceeded.
    pub(crate) fn measured_above(self, limit_bytes: u64, output_bytes: u64) -> Option<u64> {
        match self {
            Self::None => Some(limit_bytes),
            Self::Users => Some(limit_bytes.saturating_add(output_bytes)),
            Self::All => None,
        }
    }
}

/// The users that may access the directory of an executor's socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DirectoryAccess {
    /// The owner of socket and token, by ids on disk; `None`: any user that can see them.
    pub(crate) owner: Option<u32>,
    /// The host users that may connect.
    pub(crate) peers: RangeInclusive<u32>,
    /// Whether only the agent can traverse the parent directory.
    pub(crate) is_hidden: bool,
}

/// A reply of the broker, accompanied by its descriptors; or an error message.
pub(crate) type ReplyResult = Result<BrokerReply, String>;

/// A reply with its descriptors, or an error message.
pub(crate) type OperationResult = Result<(BrokerReply, Vec<OwnedFd>), String>;

/// The operations of an agent without a broker.
pub(crate) type LocalOperations =
    Arc<dyn Fn(BrokerRequest, Vec<OwnedFd>) -> OperationResult + Send + Sync>;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum BrokerRequest {
    /// The first request, with the descriptor of the agent's lock.
    Open,
    MakeContainer(ContainerName),
    /// A launch, with the descriptors of the network namespace that the container joins, and of the
    /// file with its secrets, if there are any.
    Launch(Box<LaunchSpec>),
    /// An unpacking, with the archive, and the target if that is a directory of files.
    Unpack {
        format: ArchiveFormat,
        rules: UnpackLimits,
        target: UnpackTarget,
    },
    Adopt(ContainerName),
    CancelStart(ContainerName),
    Destroy(ContainerName),
    /// Allocates host user ids for a task, and creates its container's directories for one of them:
    /// the first three requests of each start.
    Begin {
        at: TaskContainer,
        holder: ContainerName,
        user: ContainerUser,
    },
    /// Ends a container and releases all of its host resources.
    Release {
        name: ContainerName,
        is_ended: bool,
    },
    RemoveContainer(ContainerName),
    CountLaunchers,
    AllocateUsers(ContainerName),
    ReleaseUsers(ContainerName),
    RetainUsers(Vec<ContainerName>),
    MakeSandbox {
        at: TaskContainer,
        owner: Option<ContainerUser>,
    },
    LinkHostPaths {
        at: TaskContainer,
        paths: Vec<HostPathRequest>,
        viewer: HostPathUser,
    },
    ShareGroup {
        framework: String,
        group: String,
        name: ContainerName,
        first: Option<TaskContainer>,
        owner: Option<ContainerUser>,
    },
    RemoveSandboxes(Vec<PathBuf>),
    /// Removes everything in them but the output of their tasks.
    ReduceSandboxes(Vec<PathBuf>),
    LimitDisk {
        at: TaskContainer,
        bytes: u64,
    },
    IsDiskLimited(TaskContainer),
    DiskUsage(TaskContainer),
    QuotaScope(TaskContainer),
    ChangesDirectory(ContainerName),
    ResumeDisks,
    Measure(MeasureStep),
    EndMeasure(u64),
    /// The creation of a root file system, with a descriptor that is closed when the root is no
    /// longer needed.
    MakeRoot {
        at: TaskContainer,
        holder: ContainerName,
        layers: Vec<PathBuf>,
    },
    Layer(LayerChange),
    LayerMetadata(String),
    MakeExecutorDirectory(ContainerName, DirectoryAccess),
    ListenForExecutor(ContainerName),
    CheckSecret {
        role: String,
        name: String,
    },
    CheckNetworks,
    AllocateNetwork(ContainerName, Vec<PortPublication>),
    NewNetworkNamespace,
    ReleaseNetwork(ContainerName),
    ResumeNetworks(Vec<ContainerName>),
    RetryNetworks,
    RestoreNetworkRules,
    Traffic(ContainerName),
    AttachCni {
        name: ContainerName,
        list: String,
        ports: Vec<PortPublication>,
    },
    DetachCni(ContainerName),
    ListCni,
    CleanUpCni(Vec<ContainerName>),
    BlockEndpoints {
        tasks: BlockedEndpoints,
        content: BlockedEndpoints,
    },
    ReplaceLimits(ContainerName, Box<Limits>, MissingPolicy),
    ApplyLimits(ContainerName, Box<Limits>, MissingPolicy),
    RecordCpuset(ContainerName, String),
    StartContent,
    /// Ends one process of the content service, unless it was replaced.
    EndContent {
        generation: u64,
    },
    /// The agent stops.
    Shutdown,
}

/// The reply to a [`BrokerRequest`]; descriptors travel with it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum BrokerReply {
    Done,
    Opened(HostFeatures),
    /// An adopted container, with its connection.
    Running(Option<Box<Handle>>),
    Exited(Box<Exit>),
    Gone {
        reason: String,
        never_started: bool,
    },
    /// A launch that is always invalid.
    Invalid(String),
    Number(u64),
    Bool(bool),
    Path(PathBuf),
    HostPaths(Vec<HostPath>),
    /// The reason why networks have only IPv4, if the operator enabled IPv6.
    Networks(Option<String>),
    Usage(Option<DiskUsage>),
    QuotaScope(QuotaScope),
    Root(RootFs),
    Measured {
        passage: ScanState,
        /// The id for the next step; `None` once the measurement is complete.
        pass: Option<u64>,
    },
    /// An executor's socket, with its listener.
    Listening {
        first_peer: u32,
        last_peer: u32,
        token: Vec<u8>,
    },
    /// A container's network, with its namespace.
    Network {
        addresses: Vec<IpAddr>,
    },
    Traffic(Option<LinkStats>),
    Containers(Vec<ContainerName>),
    Missing(MissingControllers),
    /// `None` if the layer has no files.
    LayerMetadata(Option<Vec<u8>>),
    /// A process of the content service, with its socket.
    ContentStarted(ContentProcess),
}

/// A process of the content service.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ContentProcess {
    pub(crate) pid: u32,
    /// The number of the start, so that a late request to end it does not end its successor.
    pub(crate) generation: u64,
}
