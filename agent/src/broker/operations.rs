//! Performs requests. The called functions own the data that they change; no decisions are made
//! here.

mod descriptors;
mod perform;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use argosy_host::{ContainerId, crash_point};
use argosy_isolation::division::HostUser;
use argosy_isolation::profile::CONTAINER_IDS;
use argosy_isolation::unpack::{ArchiveFormat, HostOwner, UnpackJob, UnpackLimits};
use argosy_isolation::{
    Adoption, Cgroup, CgroupTree, ContainerUser, Isolation, LaunchDescriptors, LaunchError,
    LaunchSpec, adopt, cancel_start, destroy,
};
use argosy_proto::remedy;
use argosy_state::planted_bug;

use super::content_process::ContentProcesses;
use super::guard::{RequestPolicy, check_secrets};
use super::{directories, guard};
use crate::broker_client::request::{
    BlockedEndpoints, BrokerReply, MeasureStep, OperationResult, TaskContainer, UnpackTarget,
};
use crate::config::Config;
use crate::core::ContainerName;
use crate::disk::{DiskLimits, Scan};
use crate::error::{RunError, error_chain};
use crate::executors::ExecutorDirectory;
use crate::host::HostFeatures;
use crate::paths::Paths;
use crate::reach::EgressRules;
use crate::runner::bridges::BridgeNetworks;
use crate::runner::cni::CniNetworks;
use crate::runner::description::never_started;
use crate::runner::host_ids::{self, HostIdAllocator};
use crate::runner::launcher_process::LauncherProcess;
use crate::runner::roots::{self, RootFsBuilder};
use crate::runner::{HelperCommands, REMOVAL_TIMEOUT, groups};
use crate::sandbox::{self, ParentDirMode};

/// Maximum number of suspended disk measurements.
const MAX_SCANS: usize = 16_384;
/// The time for which a stopping agent waits for the last of its ended containers.
const CLEAR_TIMEOUT: Duration = Duration::from_secs(1);
/// The polling interval.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The operations of one agent that need root.
pub(crate) struct PrivilegedOperations {
    guard: RequestPolicy,
    paths: Paths,
    /// The owner of the agent's own files.
    owner: HostUser,
    tree: Option<CgroupTree>,
    host_ids: Option<HostIdAllocator>,
    launcher: LauncherProcess,
    bridges: BridgeNetworks,
    cni: CniNetworks,
    limits: DiskLimits,
    roots: RootFsBuilder,
    /// The endpoints closed to tasks, and to the content service. A lock, so that no older set
    /// overwrites a newer one.
    blocked: Mutex<[BlockedEndpoints; 2]>,
    content: ContentProcesses,
    scans: Mutex<OpenScans>,
}

#[derive(Default)]
struct OpenScans {
    serial: u64,
    suspended: BTreeMap<u64, Scan>,
}

impl PrivilegedOperations {
    /// Prepares the host for an agent. Only while it holds the lock of its directory.
    pub(crate) fn open(
        config: &Config,
        commands: HelperCommands,
        owner: HostUser,
    ) -> Result<(Self, HostFeatures), RunError> {
        let paths = Paths::new(&config.directory);
        let mut host = HostFeatures::detect(config, &paths)?;
        let tree = host.tree();
        let host_ids = match host.isolation {
            Isolation::Full => Some(host_ids::open(&paths)?),
            Isolation::UserNamespaces | Isolation::Processes => None,
        };
        let reach = EgressRules::new(config, None);
        let operations = Self {
            guard: RequestPolicy::new(config, &paths, host.isolation, tree.clone()),
            launcher: LauncherProcess::start(commands.launcher, tree.clone())?,
            bridges: BridgeNetworks::new(paths.root(), config, host.isolation),
            cni: CniNetworks::open(&paths, &config.networks.cni)?,
            limits: DiskLimits::new(&paths, config.disk_enforcement),
            roots: RootFsBuilder::new(config.image_roots, &paths),
            blocked: Mutex::new([reach.blocked(), reach.blocked_for_content()]),
            content: ContentProcesses::new(commands.content),
            scans: Mutex::default(),
            owner,
            tree,
            host_ids,
            paths,
        };
        host.task_subnets = operations.bridges.subnets();
        directories::remove_empty(&operations.paths);
        Ok((operations, host))
    }

    fn launch(&self, spec: &LaunchSpec, descriptors: Vec<OwnedFd>) -> OperationResult {
        let (namespace, secrets) = descriptors::of_launch(spec, descriptors);
        let is_allowed = self
            .guard
            .check(spec, namespace.as_ref(), |first| self.owns_id(first))
            .and_then(|()| check_secrets(secrets.as_ref()));
        if let Err(rule) = is_allowed {
            return Err(format!("the launch of {} is refused: {rule}", spec.id));
        }
        let descriptors = LaunchDescriptors {
            namespace: namespace.as_ref().map(AsFd::as_fd),
            secrets: secrets.as_ref().map(AsFd::as_fd),
        };
        match self.launcher.launch(spec, descriptors) {
            Ok(container) => Ok((
                BrokerReply::Running(None),
                vec![container.into_connection()],
            )),
            Err(LaunchError::Spec(error)) => {
                Ok((BrokerReply::Invalid(error.to_string()), Vec::new()))
            }
            // The state files show whether this request arrived.
            Err(error @ LaunchError::Gone { .. }) => match adopt(&spec.directory) {
                Ok(Adoption::Running(container)) => {
                    let handle = container.handle().cloned().map(Box::new);
                    Ok((
                        BrokerReply::Running(handle),
                        vec![container.into_connection()],
                    ))
                }
                Ok(Adoption::Exited(_) | Adoption::Gone { .. }) | Err(_) => {
                    Err(error_chain(&error))
                }
            },
            Err(error @ (LaunchError::Spawn { .. } | LaunchError::Cgroup(_))) => {
                Err(error_chain(&error))
            }
        }
    }

    fn destroy(&self, name: ContainerName) -> Result<(), String> {
        let directory = self.paths.container(name);
        if directory.exists() && cancel_start(&directory).map_err(|error| error_chain(&error))? {
            let ended = self.launcher.end_supervisor(&id(name), REMOVAL_TIMEOUT);
            let failed = |error| format!("the supervisor of {name} cannot be ended: {error}");
            if !ended.map_err(failed)? {
                return Err(format!("the supervisor of {name} does not end"));
            }
        }
        let group = self.group(name);
        let path = group.as_ref().map(Cgroup::path);
        destroy(&directory, path, REMOVAL_TIMEOUT).map_err(|error| error_chain(&error))
    }

    /// Releases a container's resources. Without a cgroup the container has ended, as an agent
    /// reports after its supervisor has.
    fn release(&self, name: ContainerName, is_ended: bool) -> Result<(), String> {
        let group = self.group(name);
        let is_ended = is_ended && group.as_ref().is_some_and(|group| !group.path().exists());
        if !is_ended {
            self.destroy(name)?;
        }
        planted_bug!(CgroupLeaked if is_leaked(name) => drop(group.map(|group| group.create())));
        crash_point!("remove.destroyed");
        let released = self.bridges.release(name);
        released.map_err(|error| error_chain(&error))?;
        crash_point!("remove.network-released");
        roots::clear(&self.limits.changes(name))?;
        let removed = ExecutorDirectory::new(self.paths.executor(name)).remove();
        removed.map_err(|error| error.to_string())?;
        let returned = self.host_ids.as_ref().map(|ids| ids.release(name));
        returned.transpose().map_err(|error| error.to_string())?;
        crash_point!("remove.users-returned");
        Ok(())
    }

    /// Returns the first host user id.
    fn begin(
        &self,
        at: &TaskContainer,
        holder: ContainerName,
        user: &ContainerUser,
    ) -> Result<u32, String> {
        let mut numbers = [user.uid, user.gid].into_iter().chain(user.groups.clone());
        if let Some(number) = numbers.find(|number| *number >= CONTAINER_IDS) {
            return Err(format!("a container has no user or group {number}"));
        }
        let taken = self.ids()?.allocate(holder);
        let first = taken.map_err(|error| host_ids::none_free(&error))?;
        directories::make_container(&self.paths, at.name)?;
        self.make_sandbox(at, Some(&user.on_host(first)))?;
        Ok(first)
    }

    fn unpack(
        &self,
        (format, rules): (ArchiveFormat, UnpackLimits),
        target: &UnpackTarget,
        descriptors: Vec<OwnedFd>,
    ) -> OperationResult {
        let mut descriptors = descriptors.into_iter();
        let archive = descriptors.next().ok_or("the archive is missing")?;
        let (rules, owner, target) = match target {
            UnpackTarget::Layer { draft } => {
                let root = directories::layer_root(&self.paths, draft)?;
                let root = std::fs::File::open(&root)
                    .map_err(|error| format!("cannot open {}: {error}", root.display()))?;
                (
                    UnpackLimits::layer(),
                    HostOwner { uid: 0, gid: 0 },
                    root.into(),
                )
            }
            UnpackTarget::Files { uid, gid } => {
                let user = ContainerUser {
                    uid: *uid,
                    gid: *gid,
                    groups: Vec::new(),
                };
                self.check_user(&user)?;
                let owner = HostOwner {
                    uid: *uid,
                    gid: *gid,
                };
                let target = descriptors.next().ok_or("the target is missing")?;
                (rules, owner, target)
            }
        };
        let job = UnpackJob {
            format,
            rules,
            owner,
            group: self.tree.as_ref().map(CgroupTree::content),
        };
        let unpacking = self.launcher.unpack(&job, archive.as_fd(), target.as_fd());
        let unpacking = unpacking.map_err(|error| error_chain(&error))?;
        Ok((BrokerReply::Done, vec![unpacking.into_connection()]))
    }

    fn adopt(&self, name: ContainerName) -> OperationResult {
        let directory = self.paths.container(name);
        let plain = |reply: BrokerReply| Ok((reply, Vec::new()));
        match adopt(&directory).map_err(|error| error_chain(&error))? {
            Adoption::Running(container) => {
                let handle = container.handle().cloned().map(Box::new);
                Ok((
                    BrokerReply::Running(handle),
                    vec![container.into_connection()],
                ))
            }
            Adoption::Exited(exit) => plain(BrokerReply::Exited(Box::new(exit))),
            Adoption::Gone { reason } => plain(BrokerReply::Gone {
                reason,
                never_started: never_started(&directory),
            }),
        }
    }

    fn make_sandbox(
        &self,
        at: &TaskContainer,
        owner: Option<&ContainerUser>,
    ) -> Result<(), String> {
        let sandbox = self.sandbox(at)?;
        if let Some(owner) = owner {
            self.check_user(owner)?;
        }
        let above = ParentDirMode::of(self.owner);
        sandbox::make(&sandbox, owner, above).map_err(|error| error.to_string())
    }

    fn share_group(
        &self,
        (framework, group, name): (&str, &str, ContainerName),
        first: Option<&TaskContainer>,
        owner: Option<&ContainerUser>,
    ) -> OperationResult {
        if let Some(owner) = owner {
            self.check_user(owner)?;
        }
        let usual = guard::group_dir(&self.paths, framework, group, name)?;
        let on_its_own = first.and_then(|first| self.limits.group(first.name));
        let directory = on_its_own.unwrap_or(usual);
        let above = ParentDirMode::of(self.owner);
        // With full isolation all users of the group's containers may write to it, and no other
        // user can access it. In other modes it belongs to the agent's own user, as its tasks do.
        let (owner, above) = match self.host_ids {
            Some(_) => (owner, above.without_others()),
            None => (None, above),
        };
        groups::make(&directory, owner, above).map_err(|error| {
            let (directory, remedy) = (directory.display(), remedy::of_failed_write(&error));
            format!("cannot create the group directory {directory}: {error}; {remedy}")
        })?;
        if let Some(first) = first {
            let sandbox = self.sandbox(first)?;
            self.limits.add_directory(&sandbox, &directory)?;
        }
        Ok((BrokerReply::Path(directory), Vec::new()))
    }

    fn measure(&self, step: MeasureStep) -> OperationResult {
        let mut walk = match step.pass {
            Some(pass) => self.scans().suspended.remove(&pass),
            None => {
                for directory in &step.directories {
                    guard::is_measurable(&self.paths, directory)?;
                }
                let group = step.processes.and_then(|name| self.group(name));
                let group = group.as_ref().map(Cgroup::path);
                Some(Scan::new(&step.directories).with_group(group))
            }
        }
        .ok_or("unknown disk measurement")?;
        let progress = walk.advance(step.until_cost, step.enough_bytes);
        let passage = walk.state(progress);
        let pass = passage.is_incomplete().then(|| {
            let mut passes = self.scans();
            // Measurements that an agent has forgotten are dropped: it begins them again.
            while passes.suspended.len() >= MAX_SCANS {
                passes.suspended.pop_first();
            }
            passes.serial += 1;
            let serial = passes.serial;
            passes.suspended.insert(serial, walk);
            serial
        });
        Ok((BrokerReply::Measured { passage, pass }, Vec::new()))
    }

    fn make_root(
        &self,
        at: &TaskContainer,
        holder: ContainerName,
        layers: Vec<PathBuf>,
        wanted: Option<OwnedFd>,
    ) -> OperationResult {
        let sandbox = self.sandbox(at)?;
        for layer in &layers {
            guard::is_layer(&self.paths, layer)?;
        }
        let first_host_id = match &self.host_ids {
            Some(ids) => ids.allocate(holder).map_err(|error| error.to_string())?,
            None => 0,
        };
        let group = self.group(at.name);
        let place = roots::RootFsLocation {
            changes: &self.limits.changes(at.name),
            first_host_id,
            id: id(at.name),
            cgroup: group.map(|group| group.path().to_owned()),
            launcher: &self.launcher,
            prepare: &|made| self.limits.add_directory(&sandbox, made),
            is_active: &|| {
                wanted
                    .as_ref()
                    .is_none_or(|end| !descriptors::has_hung_up(end))
            },
        };
        let root = self.roots.make(layers, &place)?;
        Ok((BrokerReply::Root(root), Vec::new()))
    }

    /// Closes more endpoints. Closed endpoints stay closed, whatever the agent requests.
    fn block_endpoints(
        &self,
        tasks: BlockedEndpoints,
        content: BlockedEndpoints,
    ) -> Result<(), String> {
        let mut closed = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        for (closed, more) in closed.iter_mut().zip([tasks, content]) {
            closed.join(more);
        }
        let Some(tree) = &self.tree else {
            return Ok(());
        };
        let [of_tasks, of_content] = &*closed;
        let applied = of_tasks.closed().apply(tree.root());
        let applied = applied.and_then(|()| of_content.closed().apply(&tree.content()));
        applied.map_err(|error| error.to_string())
    }

    fn start_content(&self) -> OperationResult {
        let group = self.tree.as_ref().map(CgroupTree::content);
        self.bridges.prepare_records();
        let (process, socket) = self.content.start(group.as_deref())?;
        Ok((BrokerReply::ContentStarted(process), vec![socket]))
    }

    /// Ends the helpers, and removes the tree when the last supervisor of an ended container has
    /// exited.
    fn clear(&self) {
        self.end();
        let Some(tree) = &self.tree else { return };
        let deadline = Instant::now() + CLEAR_TIMEOUT;
        let again = || {
            std::thread::sleep(POLL_INTERVAL);
            Instant::now() < deadline
        };
        let is_empty = || tree.containers().is_ok_and(|living| living.is_empty());
        if is_empty()
            && let Err(error) = self.bridges.remove()
        {
            let why = error_chain(&error);
            tracing::warn!(why, "the networks of containers stay on this host");
        }
        if is_empty() {
            self.cni.remove();
        }
        while is_empty() && tree.remove().is_err() && again() {}
    }

    /// Ends its child processes.
    pub(super) fn end(&self) {
        self.launcher.end();
        self.content.end_all();
    }

    fn sandbox(&self, at: &TaskContainer) -> Result<PathBuf, String> {
        Ok(self.paths.sandbox(&at.key()?, at.name))
    }

    fn group(&self, name: ContainerName) -> Option<Cgroup> {
        self.tree.as_ref().map(|tree| tree.group(&id(name)))
    }

    fn group_of(&self, name: ContainerName) -> Result<Cgroup, String> {
        self.group(name)
            .ok_or_else(|| "this agent has no control groups".to_owned())
    }

    fn ids(&self) -> Result<&HostIdAllocator, String> {
        let ids = self.host_ids.as_ref();
        ids.ok_or_else(|| "containers of this agent have no separate users".to_owned())
    }

    fn owns_id(&self, first: u32) -> bool {
        self.host_ids.as_ref().is_some_and(|ids| ids.owns(first))
    }

    /// Checks that a host user belongs to one of this agent's containers. Without full isolation
    /// the agent may use any user that its own rights allow.
    fn check_user(&self, user: &ContainerUser) -> Result<(), String> {
        let Some(ids) = &self.host_ids else {
            return Ok(());
        };
        let mut all = [user.uid, user.gid].into_iter().chain(user.groups.clone());
        let foreign = all.find(|number| !ids.owns(*number));
        let refused = |number| format!("{number} is no user or group of a container of this agent");
        foreign.map_or(Ok(()), |number| Err(refused(number)))
    }

    fn scans(&self) -> MutexGuard<'_, OpenScans> {
        self.scans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates or takes over the directories of an agent, before anything else.
pub(crate) fn prepare(directory: &Path, owner: HostUser) -> Result<(), RunError> {
    let prepared = directories::prepare(&Paths::new(directory), owner);
    prepared.map_err(|(path, source)| RunError::Directory { path, source })
}

/// Implements the planted bug `CgroupLeaked`: whether the group exists again after its removal.
fn is_leaked(name: ContainerName) -> bool {
    name.instance.order.0 % 10 == 9
}

fn id(name: ContainerName) -> ContainerId {
    ContainerId::new(name.to_string()).expect("digits and dashes make a name")
}
