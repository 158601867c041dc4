//! The agent's client of its broker, or of the same operations in its own process. Calls block.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use argosy_content::service::Started;
use argosy_isolation::disk::DiskUsage;
use argosy_isolation::division;
use argosy_isolation::limits::{Missing, MissingPolicy};
use argosy_isolation::service::Packets;
use argosy_isolation::unpack::{Format, Rules, Unpacking};
use argosy_isolation::{Container, Exit, HostPath, Limits, Root, Spec, User};
use argosy_proto::v1;
use argosy_state::ids::{GroupId, TaskKey};
use tokio::sync::oneshot;

use super::connections::{Connections, Patience};
use super::heartbeat;
use super::link::{self, Control, Link};
use super::operations::{Operations, Performed};
use super::request::{MeasureStep, Reply, Request, Target, TaskContainer, WantedPath};
use super::server::Said;
use crate::core::{ContainerName, Refusal};
use crate::disk::{Keeper, Passage};
use crate::error::RunError;
use crate::executors::Guest;
use crate::journal::Lock;
use crate::sandbox::Viewer;
use crate::start::Host;

/// A handle on the broker. All clones share its connections.
#[derive(Clone)]
pub(crate) enum Broker {
    /// Performs the operations in this process.
    Here(Arc<Operations>),
    Elsewhere(Arc<Connections>),
}

/// The state of a container that an earlier agent launched.
pub(crate) enum Adopted {
    Running(Container),
    Exited(Exit),
    Gone { reason: String, never_started: bool },
}

pub(super) type Done<T = ()> = Result<T, String>;

impl Broker {
    /// Starts the broker's service. The receiver resolves when the broker has exited, with a
    /// description of its exit that follows "it".
    pub(crate) fn open(
        link: Link,
        lock: &Lock,
    ) -> Result<(Self, Host, oneshot::Receiver<String>), RunError> {
        let failed = |why: String| RunError::Broker { why };
        let words = |error: io::Error| failed(error.to_string());
        let Link {
            control,
            requests,
            broker,
        } = link;
        link::send(&control, &Control::Open, &[lock.as_fd()]).map_err(words)?;
        let said = link::receive::<Said>(&control).map_err(words)?;
        let host = match said {
            Some((Ok(Reply::Opened(host)), _)) => host,
            Some((Ok(_), _)) => return Err(failed(senseless())),
            Some((Err(why), _)) => return Err(failed(why)),
            None => return Err(failed(gone())),
        };
        let (tell, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("broker".to_owned());
        let connections = Arc::new(Connections::new(requests));
        let asked = Arc::clone(&connections);
        let watch = move || {
            let pid = broker.as_ref().map(|broker| broker.pid);
            heartbeat::watch(&control, &asked, pid);
            let how = broker.and_then(|broker| division::wait(broker.handle.as_fd()).ok());
            // The receiver may have been dropped.
            let _ = tell.send(how.unwrap_or_else(|| "has ended".to_owned()));
        };
        thread.spawn(watch).map_err(words)?;
        Ok((Self::Elsewhere(connections), host, ended))
    }

    /// Whether the broker has ended, as far as requests have shown. Later requests fail for that
    /// reason alone.
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::Here(_) => false,
            Self::Elsewhere(connections) => connections.is_lost(),
        }
    }

    /// Marks the agent as ending: from now on no request waits for a broker that does not respond.
    pub(crate) fn end(&self) {
        if let Self::Elsewhere(connections) = self {
            connections.end();
        }
    }

    pub(super) fn ask(&self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Performed {
        self.ask_with(request, descriptors, Patience::Whole)
    }

    fn ask_with(
        &self,
        request: Request,
        descriptors: &[BorrowedFd<'_>],
        patience: Patience,
    ) -> Performed {
        match self {
            Self::Here(operations) => {
                let owned = descriptors.iter().map(|one| one.try_clone_to_owned());
                let owned = owned.collect::<io::Result<_>>();
                operations.perform(request, owned.map_err(|error| error.to_string())?)
            }
            Self::Elsewhere(connections) => connections.ask(&request, descriptors, patience),
        }
    }

    pub(super) fn plain(&self, request: Request) -> Done<Reply> {
        self.ask(request, &[]).map(|(reply, _)| reply)
    }

    /// Fails if the broker does not respond: for values that are only displayed.
    pub(super) fn shown(&self, request: Request) -> Done<Reply> {
        let asked = self.ask_with(request, &[], Patience::None);
        asked.map(|(reply, _)| reply)
    }

    pub(super) fn done(&self, request: Request) -> Done {
        self.plain(request).map(drop)
    }

    pub(crate) fn launch(
        &self,
        spec: &Spec,
        namespace: Option<BorrowedFd<'_>>,
    ) -> Result<Container, Refusal> {
        let failed = |text: String| Refusal {
            reason: v1::Reason::ContainerLaunchFailed,
            why: text.into(),
        };
        let descriptors: Vec<_> = namespace.into_iter().collect();
        let asked = self.ask(Request::Launch(Box::new(spec.clone())), &descriptors);
        match asked.map_err(failed)? {
            (Reply::Running(handle), connection) => {
                let connection = one(connection).map_err(failed)?;
                let handle = handle.map(|handle| *handle);
                let (folder, group) = (&spec.directory, spec.cgroup.clone());
                Ok(Container::passed_on(folder, group, handle, connection))
            }
            (Reply::Invalid(text), _) => Err(Refusal {
                reason: v1::Reason::TaskInvalid,
                why: text.into(),
            }),
            _ => Err(failed(senseless())),
        }
    }

    pub(crate) fn unpack_layer(
        &self,
        format: Format,
        archive: BorrowedFd<'_>,
        draft: String,
    ) -> Done<Unpacking> {
        let request = Request::Unpack {
            format,
            rules: Rules::layer(),
            target: Target::Layer { draft },
        };
        let (_, connection) = self.ask(request, &[archive])?;
        one(connection).map(Unpacking::passed_on)
    }

    pub(crate) fn unpack_files(
        &self,
        format: Format,
        (uid, gid): (u32, u32),
        archive: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
    ) -> Done<Unpacking> {
        let request = Request::Unpack {
            format,
            rules: Rules::archive(),
            target: Target::Files { uid, gid },
        };
        let (_, connection) = self.ask(request, &[archive, target])?;
        one(connection).map(Unpacking::passed_on)
    }

    /// Adopts a container of an earlier agent. `folder` and `group` are the container's.
    pub(crate) fn adopt(
        &self,
        name: ContainerName,
        folder: &Path,
        group: Option<PathBuf>,
    ) -> Done<Adopted> {
        match self.ask(Request::Adopt(name), &[])? {
            (Reply::Running(handle), connection) => {
                let handle = handle.map(|handle| *handle);
                let connection = one(connection)?;
                let container = Container::passed_on(folder, group, handle, connection);
                Ok(Adopted::Running(container))
            }
            (Reply::Exited(exit), _) => Ok(Adopted::Exited(*exit)),
            (
                Reply::Gone {
                    reason,
                    never_started,
                },
                _,
            ) => Ok(Adopted::Gone {
                reason,
                never_started,
            }),
            _ => Err(senseless()),
        }
    }

    /// Replaces a launcher that does not respond. Returns the number of launchers replaced so far.
    pub(crate) fn count_launchers(&self) -> Done<u64> {
        number(self.plain(Request::CountLaunchers)?)
    }

    pub(crate) fn take_users(&self, name: ContainerName) -> Done<u32> {
        let first = number(self.plain(Request::TakeUsers(name))?)?;
        u32::try_from(first).map_err(|_| senseless())
    }

    pub(crate) fn return_users(&self, name: ContainerName) -> Done {
        self.done(Request::ReturnUsers(name))
    }

    pub(crate) fn keep_users(&self, known: Vec<ContainerName>) -> Done {
        self.done(Request::KeepUsers(known))
    }

    pub(crate) fn make_sandbox(
        &self,
        key: &TaskKey,
        name: ContainerName,
        owner: Option<&User>,
    ) -> Done {
        self.done(Request::MakeSandbox {
            at: TaskContainer::new(key, name),
            owner: owner.cloned(),
        })
    }

    pub(crate) fn link_host_paths(
        &self,
        key: &TaskKey,
        name: ContainerName,
        paths: &[v1::HostPath],
        viewer: Viewer,
    ) -> Done<Vec<HostPath>> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let at = TaskContainer::new(key, name);
        let paths = paths.iter().map(WantedPath::from).collect();
        match self.plain(Request::LinkHostPaths { at, paths, viewer })? {
            Reply::HostPaths(paths) => Ok(paths),
            _ => Err(senseless()),
        }
    }

    pub(crate) fn share_group(
        &self,
        key: &TaskKey,
        (group, name): (&GroupId, ContainerName),
        first: Option<&(ContainerName, TaskKey)>,
        owner: Option<&User>,
    ) -> Done<PathBuf> {
        path(self.plain(Request::ShareGroup {
            framework: key.framework.to_string(),
            group: group.to_string(),
            name,
            first: first.map(|(name, key)| TaskContainer::new(key, *name)),
            owner: owner.cloned(),
        })?)
    }

    pub(crate) fn remove_sandboxes(&self, leaving: Vec<PathBuf>) -> Done {
        match leaving.is_empty() {
            true => Ok(()),
            false => self.done(Request::RemoveSandboxes(leaving)),
        }
    }

    pub(crate) fn bound_disk(&self, key: &TaskKey, name: ContainerName, bytes: u64) -> Done {
        let at = TaskContainer::new(key, name);
        self.done(Request::BoundDisk { at, bytes })
    }

    pub(crate) fn is_disk_bounded(&self, key: &TaskKey, name: ContainerName) -> Done<bool> {
        match self.plain(Request::IsDiskBounded(TaskContainer::new(key, name)))? {
            Reply::Is(is) => Ok(is),
            _ => Err(senseless()),
        }
    }

    /// Returns the usage of the task's disk; `None` if it has no limit or cannot be read.
    pub(crate) fn disk_usage(&self, key: &TaskKey, name: ContainerName) -> Option<DiskUsage> {
        usage(self.plain(Request::DiskUsage(TaskContainer::new(key, name))))
    }

    /// Does the same; returns `None` also if the broker does not respond.
    pub(crate) fn shown_disk_usage(&self, key: &TaskKey, name: ContainerName) -> Option<DiskUsage> {
        usage(self.shown(Request::DiskUsage(TaskContainer::new(key, name))))
    }

    pub(crate) fn disk_keeper(&self, key: &TaskKey, name: ContainerName) -> Done<Keeper> {
        match self.plain(Request::DiskKeeper(TaskContainer::new(key, name)))? {
            Reply::Keeper(keeper) => Ok(keeper),
            _ => Err(senseless()),
        }
    }

    pub(crate) fn changes(&self, name: ContainerName) -> Done<PathBuf> {
        path(self.plain(Request::Changes(name))?)
    }

    pub(crate) fn resume_disks(&self) -> Done {
        self.done(Request::ResumeDisks)
    }

    /// Runs one step of a disk measurement. Returns the id with which the next step continues.
    pub(crate) fn measure(&self, step: MeasureStep) -> Done<(Passage, Option<u64>)> {
        match self.plain(Request::Measure(step))? {
            Reply::Measured { passage, pass } => Ok((passage, pass)),
            _ => Err(senseless()),
        }
    }

    pub(crate) fn end_measure(&self, pass: u64) {
        // The broker drops the oldest measurements by itself.
        let _ = self.done(Request::EndMeasure(pass));
    }

    /// Creates a root file system. The work stops when the peer of `wanted` is closed.
    pub(crate) fn make_root(
        &self,
        key: &TaskKey,
        (name, holder): (ContainerName, ContainerName),
        layers: Vec<PathBuf>,
        wanted: BorrowedFd<'_>,
    ) -> Done<Root> {
        let at = TaskContainer::new(key, name);
        let request = Request::MakeRoot { at, holder, layers };
        match self.ask(request, &[wanted])? {
            (Reply::Root(root), _) => Ok(root),
            _ => Err(senseless()),
        }
    }

    pub(crate) fn make_place(&self, name: ContainerName, guest: &Guest) -> Done {
        self.done(Request::MakePlace(name, guest.clone()))
    }

    /// Opens an executor's socket. Returns the listener, the user ids that may connect, and the
    /// token.
    pub(crate) fn listen_at_place(
        &self,
        name: ContainerName,
    ) -> Done<(UnixListener, RangeInclusive<u32>, Vec<u8>)> {
        match self.ask(Request::ListenAtPlace(name), &[])? {
            (
                Reply::Listening {
                    first_peer,
                    last_peer,
                    token,
                },
                listener,
            ) => Ok((one(listener)?.into(), first_peer..=last_peer, token)),
            _ => Err(senseless()),
        }
    }

    pub(crate) fn check_secret(&self, role: &str, name: &str) -> Done {
        let (role, name) = (role.to_owned(), name.to_owned());
        self.done(Request::CheckSecret { role, name })
    }

    pub(crate) fn replace_limits(
        &self,
        name: ContainerName,
        limits: Limits,
        policy: MissingPolicy,
    ) -> Done<Missing> {
        missing(self.plain(Request::ReplaceLimits(name, Box::new(limits), policy))?)
    }

    pub(crate) fn apply_limits(
        &self,
        name: ContainerName,
        limits: Limits,
        policy: MissingPolicy,
    ) -> Done<Missing> {
        missing(self.plain(Request::ApplyLimits(name, Box::new(limits), policy))?)
    }

    pub(crate) fn note_cores(&self, name: ContainerName, text: String) -> Done {
        self.done(Request::NoteCores(name, text))
    }

    /// Starts the content service; replaces a running one.
    pub(crate) fn start_content(&self) -> Done<Started> {
        let (reply, socket) = self.ask(Request::StartContent, &[])?;
        let pid = u32::try_from(number(reply)?).map_err(|_| senseless())?;
        let broker = self.clone();
        Ok(Started {
            packets: Packets::passed_on(one(socket)?),
            pid,
            end: Box::new(move || {
                // If the broker has exited, so has the service.
                let _ = broker.done(Request::EndContent);
            }),
        })
    }

    /// Removes networks and cgroups from the host if no container is left.
    pub(crate) fn clear(&self) -> Done {
        self.done(Request::Clear)
    }
}

pub(super) fn one(descriptors: Vec<OwnedFd>) -> Done<OwnedFd> {
    descriptors.into_iter().next().ok_or_else(senseless)
}

fn usage(replied: Done<Reply>) -> Option<DiskUsage> {
    match replied {
        Ok(Reply::Usage(usage)) => usage,
        Ok(_) | Err(_) => None,
    }
}

pub(super) fn number(reply: Reply) -> Done<u64> {
    match reply {
        Reply::Number(number) => Ok(number),
        _ => Err(senseless()),
    }
}

fn path(reply: Reply) -> Done<PathBuf> {
    match reply {
        Reply::Path(path) => Ok(path),
        _ => Err(senseless()),
    }
}

fn missing(reply: Reply) -> Done<Missing> {
    match reply {
        Reply::Missing(missing) => Ok(missing),
        _ => Err(senseless()),
    }
}

pub(super) fn senseless() -> String {
    "invalid reply from the broker of this agent".to_owned()
}

pub(super) fn unresponsive() -> String {
    "the broker of this agent does not respond".to_owned()
}

pub(super) fn gone() -> String {
    "the broker of this agent has ended".to_owned()
}
