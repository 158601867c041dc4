//! The agent's client of its broker, or of the same operations in its own process. Calls block.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use argosy_content::service::StartedService;
use argosy_isolation::disk::DiskUsage;
use argosy_isolation::division;
use argosy_isolation::limits::{MissingControllers, MissingPolicy};
use argosy_isolation::service::PacketSocket;
use argosy_isolation::unpack::{ArchiveFormat, UnpackHandle, UnpackLimits};
use argosy_isolation::{
    Container, ContainerUser, Exit, HostPath, LaunchDescriptors, LaunchSpec, Limits, RootFs,
};
use argosy_proto::v1;
use argosy_state::ids::{GroupId, TaskKey};
use argosy_state::task::Reason;
use tokio::sync::oneshot;

use super::connections::{BrokerConnections, BrokerProcess, TimeoutPolicy, connection_lost};
use super::heartbeat;
use super::link::{self, BrokerLink, ControlMessage};
use super::request::{
    BrokerReply, BrokerRequest, ContentProcess, DirectoryAccess, HostPathRequest, LocalOperations,
    MeasureStep, OperationResult, QuotaScope, ReplyResult, ScanState, TaskContainer, UnpackTarget,
};
use crate::core::{ContainerName, CreateError};
use crate::error::RunError;
use crate::host::HostFeatures;
use crate::journal::DirectoryLock;
use crate::sandbox::HostPathUser;

/// A handle on the broker. All clones share its connections.
#[derive(Clone)]
pub(crate) enum BrokerClient {
    /// Performs the operations in this process.
    Local(LocalOperations),
    Remote(Arc<BrokerConnections>),
}

/// The state of a container that an earlier agent launched.
pub(crate) enum AdoptedContainer {
    Running(Container),
    Exited(Exit),
    Gone { reason: String, never_started: bool },
}

pub(super) type BrokerResult<T = ()> = Result<T, String>;

impl BrokerClient {
    /// Starts the broker's service. The receiver resolves when the broker has exited, with a
    /// description of its exit that follows "it".
    pub(crate) fn open(
        link: BrokerLink,
        lock: &DirectoryLock,
    ) -> Result<(Self, HostFeatures, oneshot::Receiver<String>), RunError> {
        let failed = |why: String| RunError::Broker { why };
        let words = |error: io::Error| failed(error.to_string());
        let BrokerLink {
            control,
            requests,
            broker,
        } = link;
        link::send(&control, &ControlMessage::Open, &[lock.as_fd()]).map_err(words)?;
        let result = link::receive::<ReplyResult>(&control).map_err(words)?;
        let host = match result {
            Some((Ok(BrokerReply::Opened(host)), _)) => host,
            Some((Ok(_), _)) => return Err(failed(unexpected_reply())),
            Some((Err(why), _)) => return Err(failed(why)),
            None => return Err(failed(connection_lost())),
        };
        let (sender, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("broker".to_owned());
        let control = Arc::new(control);
        let process = broker.as_ref();
        let process = process.map(|broker| BrokerProcess::of(broker, &control));
        let process = process.transpose().map_err(words)?;
        let connections = Arc::new(BrokerConnections::new(requests).to(process));
        let asked = Arc::clone(&connections);
        let watch = move || {
            let pid = broker.as_ref().map(|broker| broker.pid);
            heartbeat::watch(&control, &asked, pid);
            let how = broker.and_then(|broker| division::wait(broker.handle.as_fd()).ok());
            // The receiver may have been dropped.
            let _ = sender.send(how.unwrap_or_else(|| "has ended".to_owned()));
        };
        thread.spawn(watch).map_err(words)?;
        Ok((Self::Remote(connections), host, ended))
    }

    pub(super) fn request(
        &self,
        request: BrokerRequest,
        descriptors: &[BorrowedFd<'_>],
    ) -> OperationResult {
        self.request_with(request, descriptors, TimeoutPolicy::Wait)
    }

    fn request_with(
        &self,
        request: BrokerRequest,
        descriptors: &[BorrowedFd<'_>],
        timeout: TimeoutPolicy,
    ) -> OperationResult {
        match self {
            Self::Local(operations) => {
                let owned = descriptors.iter().map(|one| one.try_clone_to_owned());
                let owned = owned.collect::<io::Result<_>>();
                operations(request, owned.map_err(|error| error.to_string())?)
            }
            Self::Remote(connections) => connections.request(&request, descriptors, timeout),
        }
    }

    pub(super) fn plain(&self, request: BrokerRequest) -> BrokerResult<BrokerReply> {
        self.request(request, &[]).map(|(reply, _)| reply)
    }

    /// Fails if the broker does not respond: for values that are only displayed.
    pub(super) fn request_for_display(&self, request: BrokerRequest) -> BrokerResult<BrokerReply> {
        let asked = self.request_with(request, &[], TimeoutPolicy::FailFast);
        asked.map(|(reply, _)| reply)
    }

    pub(super) fn done(&self, request: BrokerRequest) -> BrokerResult {
        self.plain(request).map(drop)
    }

    pub(crate) fn launch(
        &self,
        spec: &LaunchSpec,
        descriptors: LaunchDescriptors<'_>,
    ) -> Result<Container, CreateError> {
        let failed = |text: String| CreateError {
            reason: Reason::ContainerLaunchFailed,
            why: text.into(),
        };
        let LaunchDescriptors { namespace, secrets } = descriptors;
        let descriptors: Vec<_> = namespace.into_iter().chain(secrets).collect();
        let asked = self.request(BrokerRequest::Launch(Box::new(spec.clone())), &descriptors);
        match asked.map_err(failed)? {
            (BrokerReply::Running(handle), connection) => {
                let connection = single_descriptor(connection).map_err(failed)?;
                let handle = handle.map(|handle| *handle);
                let (dir, group) = (&spec.directory, spec.cgroup.clone());
                Ok(Container::from_connection(dir, group, handle, connection))
            }
            (BrokerReply::Invalid(text), _) => Err(CreateError {
                reason: Reason::TaskInvalid,
                why: text.into(),
            }),
            _ => Err(failed(unexpected_reply())),
        }
    }

    pub(crate) fn unpack_layer(
        &self,
        format: ArchiveFormat,
        archive: BorrowedFd<'_>,
        draft: String,
    ) -> BrokerResult<UnpackHandle> {
        let request = BrokerRequest::Unpack {
            format,
            rules: UnpackLimits::layer(),
            target: UnpackTarget::Layer { draft },
        };
        let (_, connection) = self.request(request, &[archive])?;
        single_descriptor(connection).map(UnpackHandle::from_connection)
    }

    pub(crate) fn unpack_files(
        &self,
        format: ArchiveFormat,
        (uid, gid): (u32, u32),
        archive: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
    ) -> BrokerResult<UnpackHandle> {
        let request = BrokerRequest::Unpack {
            format,
            rules: UnpackLimits::archive(),
            target: UnpackTarget::Files { uid, gid },
        };
        let (_, connection) = self.request(request, &[archive, target])?;
        single_descriptor(connection).map(UnpackHandle::from_connection)
    }

    /// Adopts a container of an earlier agent. `directory` is its state directory, `group` its
    /// cgroup.
    pub(crate) fn adopt(
        &self,
        name: ContainerName,
        directory: &Path,
        group: Option<PathBuf>,
    ) -> BrokerResult<AdoptedContainer> {
        match self.request(BrokerRequest::Adopt(name), &[])? {
            (BrokerReply::Running(handle), connection) => {
                let handle = handle.map(|handle| *handle);
                let connection = single_descriptor(connection)?;
                let container = Container::from_connection(directory, group, handle, connection);
                Ok(AdoptedContainer::Running(container))
            }
            (BrokerReply::Exited(exit), _) => Ok(AdoptedContainer::Exited(*exit)),
            (
                BrokerReply::Gone {
                    reason,
                    never_started,
                },
                _,
            ) => Ok(AdoptedContainer::Gone {
                reason,
                never_started,
            }),
            _ => Err(unexpected_reply()),
        }
    }

    /// Replaces a launcher that does not respond. Returns the number of launchers replaced so far.
    pub(crate) fn count_launchers(&self) -> BrokerResult<u64> {
        number(self.plain(BrokerRequest::CountLaunchers)?)
    }

    pub(crate) fn allocate_ids(&self, name: ContainerName) -> BrokerResult<u32> {
        let first = number(self.plain(BrokerRequest::AllocateUsers(name))?)?;
        u32::try_from(first).map_err(|_| unexpected_reply())
    }

    pub(crate) fn release_ids(&self, name: ContainerName) -> BrokerResult {
        self.done(BrokerRequest::ReleaseUsers(name))
    }

    pub(crate) fn retain_ids(&self, known: Vec<ContainerName>) -> BrokerResult {
        self.done(BrokerRequest::RetainUsers(known))
    }

    pub(crate) fn make_sandbox(
        &self,
        key: &TaskKey,
        name: ContainerName,
        owner: Option<&ContainerUser>,
    ) -> BrokerResult {
        self.done(BrokerRequest::MakeSandbox {
            at: TaskContainer::new(key, name),
            owner: owner.cloned(),
        })
    }

    pub(crate) fn link_host_paths(
        &self,
        key: &TaskKey,
        name: ContainerName,
        paths: &[v1::HostPath],
        viewer: HostPathUser,
    ) -> BrokerResult<Vec<HostPath>> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let at = TaskContainer::new(key, name);
        let paths = paths.iter().map(HostPathRequest::from).collect();
        match self.plain(BrokerRequest::LinkHostPaths { at, paths, viewer })? {
            BrokerReply::HostPaths(paths) => Ok(paths),
            _ => Err(unexpected_reply()),
        }
    }

    pub(crate) fn share_group(
        &self,
        key: &TaskKey,
        (group, name): (&GroupId, ContainerName),
        first: Option<&(ContainerName, TaskKey)>,
        owner: Option<&ContainerUser>,
    ) -> BrokerResult<PathBuf> {
        path(self.plain(BrokerRequest::ShareGroup {
            framework: key.framework.to_string(),
            group: group.to_string(),
            name,
            first: first.map(|(name, key)| TaskContainer::new(key, *name)),
            owner: owner.cloned(),
        })?)
    }

    /// Removes sandboxes, or keeps only the output of their tasks.
    pub(crate) fn end_sandboxes(&self, paths: Vec<PathBuf>, keeps_output: bool) -> BrokerResult {
        match (paths.is_empty(), keeps_output) {
            (true, _) => Ok(()),
            (false, false) => self.done(BrokerRequest::RemoveSandboxes(paths)),
            (false, true) => self.done(BrokerRequest::ReduceSandboxes(paths)),
        }
    }

    pub(crate) fn limit_disk(
        &self,
        key: &TaskKey,
        name: ContainerName,
        bytes: u64,
    ) -> BrokerResult {
        let at = TaskContainer::new(key, name);
        self.done(BrokerRequest::LimitDisk { at, bytes })
    }

    pub(crate) fn is_disk_limited(&self, key: &TaskKey, name: ContainerName) -> BrokerResult<bool> {
        match self.plain(BrokerRequest::IsDiskLimited(TaskContainer::new(key, name)))? {
            BrokerReply::Bool(is) => Ok(is),
            _ => Err(unexpected_reply()),
        }
    }

    /// Returns the usage of the task's disk; `None` if it has no limit or cannot be read.
    pub(crate) fn disk_usage(&self, key: &TaskKey, name: ContainerName) -> Option<DiskUsage> {
        usage(self.plain(BrokerRequest::DiskUsage(TaskContainer::new(key, name))))
    }

    /// Does the same; returns `None` also if the broker does not respond.
    pub(crate) fn shown_disk_usage(&self, key: &TaskKey, name: ContainerName) -> Option<DiskUsage> {
        usage(self.request_for_display(BrokerRequest::DiskUsage(TaskContainer::new(key, name))))
    }

    pub(crate) fn quota_scope(
        &self,
        key: &TaskKey,
        name: ContainerName,
    ) -> BrokerResult<QuotaScope> {
        match self.plain(BrokerRequest::QuotaScope(TaskContainer::new(key, name)))? {
            BrokerReply::QuotaScope(scope) => Ok(scope),
            _ => Err(unexpected_reply()),
        }
    }

    pub(crate) fn changes(&self, name: ContainerName) -> BrokerResult<PathBuf> {
        path(self.plain(BrokerRequest::ChangesDirectory(name))?)
    }

    pub(crate) fn resume_disks(&self) -> BrokerResult {
        self.done(BrokerRequest::ResumeDisks)
    }

    /// Runs one step of a disk measurement. Returns the id with which the next step continues.
    pub(crate) fn measure(&self, step: MeasureStep) -> BrokerResult<(ScanState, Option<u64>)> {
        match self.plain(BrokerRequest::Measure(step))? {
            BrokerReply::Measured { passage, pass } => Ok((passage, pass)),
            _ => Err(unexpected_reply()),
        }
    }

    pub(crate) fn end_measure(&self, pass: u64) {
        // The broker drops the oldest measurements by itself.
        let _ = self.done(BrokerRequest::EndMeasure(pass));
    }

    /// Creates a root file system. The work stops when the peer of `wanted` is closed.
    pub(crate) fn make_root(
        &self,
        key: &TaskKey,
        (name, holder): (ContainerName, ContainerName),
        layers: Vec<PathBuf>,
        wanted: BorrowedFd<'_>,
    ) -> BrokerResult<RootFs> {
        let at = TaskContainer::new(key, name);
        let request = BrokerRequest::MakeRoot { at, holder, layers };
        match self.request(request, &[wanted])? {
            (BrokerReply::Root(root), _) => Ok(root),
            _ => Err(unexpected_reply()),
        }
    }

    pub(crate) fn make_socket_dir(
        &self,
        name: ContainerName,
        guest: &DirectoryAccess,
    ) -> BrokerResult {
        self.done(BrokerRequest::MakeExecutorDirectory(name, guest.clone()))
    }

    /// Opens an executor's socket. Returns the listener, the user ids that may connect, and the
    /// token.
    pub(crate) fn listen_executor(
        &self,
        name: ContainerName,
    ) -> BrokerResult<(UnixListener, RangeInclusive<u32>, Vec<u8>)> {
        match self.request(BrokerRequest::ListenForExecutor(name), &[])? {
            (
                BrokerReply::Listening {
                    first_peer,
                    last_peer,
                    token,
                },
                listener,
            ) => Ok((
                single_descriptor(listener)?.into(),
                first_peer..=last_peer,
                token,
            )),
            _ => Err(unexpected_reply()),
        }
    }

    pub(crate) fn check_secret(&self, role: &str, name: &str) -> BrokerResult {
        let (role, name) = (role.to_owned(), name.to_owned());
        self.done(BrokerRequest::CheckSecret { role, name })
    }

    pub(crate) fn replace_limits(
        &self,
        name: ContainerName,
        limits: Limits,
        policy: MissingPolicy,
    ) -> BrokerResult<MissingControllers> {
        missing(self.plain(BrokerRequest::ReplaceLimits(name, Box::new(limits), policy))?)
    }

    pub(crate) fn apply_limits(
        &self,
        name: ContainerName,
        limits: Limits,
        policy: MissingPolicy,
    ) -> BrokerResult<MissingControllers> {
        missing(self.plain(BrokerRequest::ApplyLimits(name, Box::new(limits), policy))?)
    }

    pub(crate) fn record_cpus(&self, name: ContainerName, text: String) -> BrokerResult {
        self.done(BrokerRequest::RecordCpuset(name, text))
    }

    /// Starts the content service; replaces a running one.
    pub(crate) fn start_content(&self) -> BrokerResult<StartedService> {
        let (BrokerReply::ContentStarted(started), socket) =
            self.request(BrokerRequest::StartContent, &[])?
        else {
            return Err(unexpected_reply());
        };
        let ContentProcess { pid, generation } = started;
        let broker = self.clone();
        Ok(StartedService {
            packets: PacketSocket::from_socket(single_descriptor(socket)?),
            pid,
            stop: Box::new(move || {
                // If the broker has exited, so has the service.
                let _ = broker.done(BrokerRequest::EndContent { generation });
            }),
        })
    }

    /// Removes networks and cgroups from the host if no container is left.
    pub(crate) fn clear(&self) -> BrokerResult {
        self.done(BrokerRequest::Shutdown)
    }
}

pub(super) fn single_descriptor(descriptors: Vec<OwnedFd>) -> BrokerResult<OwnedFd> {
    descriptors.into_iter().next().ok_or_else(unexpected_reply)
}

fn usage(replied: BrokerResult<BrokerReply>) -> Option<DiskUsage> {
    match replied {
        Ok(BrokerReply::Usage(usage)) => usage,
        Ok(_) | Err(_) => None,
    }
}

pub(super) fn number(reply: BrokerReply) -> BrokerResult<u64> {
    match reply {
        BrokerReply::Number(number) => Ok(number),
        _ => Err(unexpected_reply()),
    }
}

fn path(reply: BrokerReply) -> BrokerResult<PathBuf> {
    match reply {
        BrokerReply::Path(path) => Ok(path),
        _ => Err(unexpected_reply()),
    }
}

fn missing(reply: BrokerReply) -> BrokerResult<MissingControllers> {
    match reply {
        BrokerReply::Missing(missing) => Ok(missing),
        _ => Err(unexpected_reply()),
    }
}

pub(super) fn unexpected_reply() -> String {
    "invalid reply from the broker of this agent".to_owned()
}
