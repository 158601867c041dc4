//! Translation of a launch order to a container: directories, root, network, environment, user,
//! limits.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use argosy_host::{BootTime, ContainerId};
use argosy_isolation::mounts::SANDBOX;
use argosy_isolation::profile::COMMAND_ID;
use argosy_isolation::{
    ContainerUser, HostPath, Isolation, IsolationProfile, LaunchSpec, MissingPolicy, MountSpec,
    Namespaces, OwnerMapping, Program, ResourceLimit, RootFs, SpecError, StopAfter, Volume,
};
use argosy_network::cni::CniResult;
use argosy_proto::{convert, v1};
use argosy_state::task::{Cause, Code, Explanation, Reason};
use nix::errno::Errno;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::image_rootfs::ImageLaunch;
use super::requests::ContainerStart;
use super::sizes::ContainerSizes;
use super::{
    RunnerState, devices, disks, executors, groups, image_rootfs, limits, networks,
    security_options, sizes, volumes,
};
use crate::core::CreateError;
use crate::disk;
use crate::sandbox::HostPathUser;
use crate::wire;

/// The default `PATH` of a task.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// No core files, which would fill the disk with a task's secrets; 64 KiB of locked memory; 800 KiB
/// of message queues.
const RESOURCE_LIMITS: [(&str, u64); 3] =
    [("core", 0), ("memlock", 64 * 1024), ("msgqueue", 819_200)];

/// Returns the refusal of networks by an agent that is not root.
pub(super) fn needs_root() -> CreateError {
    invalid(Cause::new(Code::NetworkNeedsRoot, &[]))
}

/// Returns a refusal that lasts until the task is changed, or gets an agent with another
/// configuration.
pub(super) fn invalid(why: impl Into<Explanation>) -> CreateError {
    CreateError {
        reason: Reason::TaskInvalid,
        why: why.into(),
    }
}

pub(super) fn failed(why: impl Into<Explanation>) -> CreateError {
    CreateError {
        reason: Reason::ContainerLaunchFailed,
        why: why.into(),
    }
}

/// A container to launch, and its network namespace if that was created for it.
pub(super) struct PreparedLaunch {
    pub(super) spec: LaunchSpec,
    pub(super) namespace: Option<OwnedFd>,
}

/// What a container gets that may take long, and so exists before its start has a slot.
pub(super) struct LaunchParts {
    /// Its user, if the agent's own is not used.
    pub(super) user: Option<ContainerUser>,
    /// Its CNI network, if it has one.
    pub(super) plugged: Option<CniResult>,
}

/// The mounts of a container in addition to its root and its sandbox.
struct ContainerMounts {
    host_paths: Vec<HostPath>,
    volumes: Vec<Volume>,
    sizes: ContainerSizes,
}

/// Creates the directories of a container and the launcher's description of it. Long steps stop
/// when the start is cancelled.
pub(super) fn prepare(
    shared: &RunnerState,
    start: &ContainerStart,
    LaunchParts { user, plugged }: LaunchParts,
    cancelled: &CancellationToken,
) -> Result<PreparedLaunch, CreateError> {
    let task = start
        .launch
        .spec
        .as_ref()
        .ok_or_else(|| invalid(Cause::new(Code::DescriptionMissing, &[])))?;
    if start.group.is_some() && !task.host_paths.is_empty() {
        return Err(invalid(Cause::new(Code::GroupHostPaths, &[])));
    }
    let directory = shared.paths.container(start.name);
    let sandbox = shared.paths.sandbox(&start.key, start.name);
    let has_image = !image_rootfs::image_of(task).is_empty();
    let begun = create_dirs(shared, start, task, user.as_ref());
    let (owner, first_host_id) = begun.map_err(failed)?;
    let places = mounts(shared, start, task, user.as_ref())?;
    let id = container_id(start);
    let mut spec = if has_image {
        let launch = with_image(shared, start, task, cancelled)?;
        let mut spec = LaunchSpec::new(id, &directory, &sandbox, launch.program);
        spec.profile = profile(shared, start, places, (first_host_id, launch.root))?;
        spec.image_user = Some(launch.user);
        spec.working_dir = Some(launch.working_dir);
        spec.stop_signal = launch.stop_signal;
        spec.environment = environment(shared, start, launch.environment, Path::new(SANDBOX));
        spec
    } else {
        let mut spec = LaunchSpec::new(id, &directory, &sandbox, program(task)?);
        spec.profile = profile(shared, start, places, (first_host_id, RootFs::Host))?;
        let inside = match spec.profile {
            Some(_) => Path::new(SANDBOX),
            None => &sandbox,
        };
        spec.environment = environment(shared, start, variables(task, inside), inside);
        spec.user = match spec.profile {
            Some(_) => Some(command_user(user.as_ref())),
            None => user,
        };
        spec
    };
    confine(shared, start, task, &mut spec)?;
    groups::share_directory(shared, start, owner.as_ref(), &mut spec).map_err(failed)?;
    let namespace = networks::network(shared, start, plugged, &mut spec)?;
    Ok(PreparedLaunch { spec, namespace })
}

/// Returns the mounts that the task requests, checked against the configuration of this agent.
fn mounts(
    shared: &RunnerState,
    start: &ContainerStart,
    task: &v1::TaskSpec,
    user: Option<&ContainerUser>,
) -> Result<ContainerMounts, CreateError> {
    let viewer = host_path_user(shared, task, user)?;
    let host_paths =
        shared
            .broker
            .link_host_paths(&start.key, start.name, &task.host_paths, viewer);
    let mut places = ContainerMounts {
        host_paths: host_paths.map_err(invalid)?,
        volumes: volumes::volumes(task, start, &shared.settings, &shared.broker)?,
        sizes: sizes::of_task(task, &shared.settings.largest_sizes).map_err(invalid)?,
    };
    let place = executors::socket_directory(shared, start, task, user)?;
    places.host_paths.extend(place.map(|path| HostPath {
        from: path.clone(),
        to: path,
        read_only: false,
        owners: OwnerMapping::Mapped,
    }));
    Ok(places)
}

/// Returns the user that accesses the host paths of a task. The user of an image is known only
/// inside the container.
fn host_path_user(
    shared: &RunnerState,
    task: &v1::TaskSpec,
    user: Option<&ContainerUser>,
) -> Result<HostPathUser, CreateError> {
    let allowed = &shared.settings.allowed_security_options;
    let isolation = shared.settings.isolation;
    let layers = security_options::isolation_layers(task, allowed, isolation).map_err(invalid)?;
    let has_image = !image_rootfs::image_of(task).is_empty();
    let is_root = user.is_some_and(ContainerUser::is_of_root);
    Ok(HostPathUser {
        is_confined: isolation == Isolation::Full,
        may_be_root: has_image || is_root || layers.allows_user_change(),
    })
}

/// Combines the task with its image and creates its root file system.
fn with_image(
    shared: &RunnerState,
    start: &ContainerStart,
    task: &v1::TaskSpec,
    cancelled: &CancellationToken,
) -> Result<ImageLaunch, CreateError> {
    let root = |layers| {
        let unwanted =
            |error: std::io::Error| format!("cannot watch the creation of its root: {error}");
        let (wanted, held) = std::io::pipe().map_err(unwanted)?;
        let cancelled = cancelled.clone();
        // The process that creates the root detects the cancellation when this end is closed.
        let calling_off = Handle::current().spawn(async move {
            cancelled.cancelled().await;
            drop(held);
        });
        let names = (start.name, start.resource_owner());
        let made = shared
            .broker
            .make_root(&start.key, names, layers, wanted.as_fd());
        calling_off.abort();
        made
    };
    shared.images.launch(task, start.name, root)
}

/// Creates state directory and sandbox of a container; the latter does not exist yet if no files
/// were fetched. Returns the owner of the sandbox, and with full isolation the host's id of the
/// container's user 0.
fn create_dirs(
    shared: &RunnerState,
    start: &ContainerStart,
    task: &v1::TaskSpec,
    user: Option<&ContainerUser>,
) -> Result<(Option<ContainerUser>, Option<u32>), String> {
    let (broker, key, name) = (&shared.broker, &start.key, start.name);
    let (owner, first) = if shared.settings.isolation == Isolation::Full {
        let user = command_user(user);
        let first = broker.begin(key, (name, start.resource_owner()), user.clone())?;
        (Some(user.on_host(first)), Some(first))
    } else {
        broker.make_container(name)?;
        broker.make_sandbox(key, name, user)?;
        (user.cloned(), None)
    };
    match disk::enforced_bytes(shared.enforcement, task) {
        Some(bytes) if !broker.is_disk_limited(key, name)? => {
            broker.limit_disk(key, name, bytes)?;
            // The mount covers the former directory.
            broker.make_sandbox(key, name, owner.as_ref())?;
        }
        Some(_) | None => {}
    }
    Ok((owner, first))
}

/// Returns limits for kernel resources that cgroups do not count. Only full isolation has them: in
/// other modes tasks run as the agent's user, whose limits they share.
fn resource_limits(pids_max: u64, open_files: u64, disk_bytes: Option<u64>) -> Vec<ResourceLimit> {
    let processes = (pids_max > 0).then_some(("nproc", pids_max));
    let opened = [("nofile", open_files)];
    let files = disk_bytes.map(|bytes| ("fsize", bytes));
    let all = RESOURCE_LIMITS.into_iter().chain(opened);
    let all = all.chain(processes).chain(files);
    all.map(|(name, most)| ResourceLimit::at_most(name, most))
        .collect()
}

fn container_id(start: &ContainerStart) -> ContainerId {
    ContainerId::new(start.name.to_string()).expect("digits and dashes make a name")
}

fn cgroup(shared: &RunnerState, start: &ContainerStart) -> Option<PathBuf> {
    let group = shared.group(start.name);
    group.map(|group| group.path().to_owned())
}

/// Sets namespaces, limits and deadlines.
fn confine(
    shared: &RunnerState,
    start: &ContainerStart,
    task: &v1::TaskSpec,
    spec: &mut LaunchSpec,
) -> Result<(), CreateError> {
    spec.nonce = shared.settings.nonce(start.name);
    spec.output = shared.settings.output;
    spec.output_record = shared.paths.output_record(&start.key, start.name);
    spec.isolation = shared.settings.isolation;
    if spec.isolation == Isolation::Processes {
        spec.namespaces = Namespaces::NONE;
    }
    spec.cgroup = cgroup(shared, start);
    if spec.cgroup.is_some() {
        let disk = |name: &str| disks::disk_of(name, &spec.sandbox);
        let limits = limits::limits(task, shared.settings.defaults, disk);
        spec.limits = limits.map_err(failed)?;
        let cpuset = shared.cpus.of_task(start.name, task);
        spec.limits.cpuset = cpuset.map_err(failed)?;
    }
    if spec.profile.is_some() {
        // Usage of host paths is not counted, and tasks of an executor come and go, together with
        // their limits. If the kernel enforces disk limits, this limit could only hit tasks that
        // use no disk space, with a signal: a sparse file, or a file in a volume in memory.
        let is_counted = task.host_paths.is_empty()
            && task.executor.is_none()
            && disk::enforced_bytes(shared.enforcement, task).is_none();
        let disk_bytes = shared
            .settings
            .disk_default
            .or(wire::disk_limit_bytes(task))
            .filter(|_| is_counted);
        // If the cgroup counts processes, a limit that is raised later must not be capped by a
        // lower one here.
        let pids_max = match (shared.counts_pids, spec.limits.pids_max) {
            (false, Some(most)) => most,
            (true, _) | (false, None) => shared.settings.defaults.pids_max,
        };
        let sizes = sizes::of_task(task, &shared.settings.largest_sizes).map_err(invalid)?;
        spec.resource_limits = resource_limits(pids_max, sizes.open_files, disk_bytes);
        let devices = devices::of_task(task, &shared.settings.devices);
        spec.devices = devices.map_err(failed)?;
    }
    spec.missing = if shared.settings.allow_missing_controllers {
        MissingPolicy::AllowMissing
    } else {
        MissingPolicy::RequireAll
    };
    (spec.tty, spec.stdin) = (task.tty, task.stdin);
    let has_term = spec.environment.iter().any(|(name, _)| name == "TERM");
    if task.tty && !has_term {
        // Every terminal supports this type; a task names a better one in its environment.
        spec.environment
            .push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let named = convert::kill_signal_from(task.kill_policy.map_or(0, |policy| policy.signal));
    let named = named.map_err(|why| invalid(why.inside("kill_policy").to_string()))?;
    if let Some(signal) = named {
        // Signal numbers are small.
        spec.stop_signal = i32::try_from(signal.number()).ok();
    }
    spec.stop_after = start.stop_at.map(|at| StopAfter {
        deadline: BootTime(at.0),
        grace_ms: task.kill_policy.map_or(0, |policy| policy.grace_ms),
    });
    Ok(())
}

/// Returns the profile of a task; `None` without full isolation, which alone has host ids.
fn profile(
    shared: &RunnerState,
    start: &ContainerStart,
    places: ContainerMounts,
    (first_host_id, root): (Option<u32>, RootFs),
) -> Result<Option<IsolationProfile>, CreateError> {
    let task = start.launch.spec.clone().unwrap_or_default();
    let allowed = &shared.settings.allowed_security_options;
    let layers = security_options::isolation_layers(&task, allowed, shared.settings.isolation)
        .map_err(invalid)?;
    let Some(first_host_id) = first_host_id else {
        return Ok(None);
    };
    Ok(Some(IsolationProfile {
        first_host_id,
        view: MountSpec {
            root,
            host_paths: places.host_paths,
            volumes: places.volumes,
            tmp_bytes: places.sizes.tmp_bytes,
            shm_bytes: places.sizes.shm_bytes,
        },
        isolation_layers: layers,
    }))
}

fn program(task: &v1::TaskSpec) -> Result<Program, CreateError> {
    match (task.shell.is_empty(), task.argv.is_empty()) {
        (false, true) => Ok(Program::Shell(task.shell.clone())),
        (true, false) => Ok(Program::Arguments(task.argv.clone())),
        (true, true) => Err(invalid(Cause::new(Code::CommandMissing, &[]))),
        (false, false) => Err(invalid(Cause::new(Code::CommandTwice, &[]))),
    }
}

/// Returns the task's variables, which override the defaults for the host's programs.
fn variables(task: &v1::TaskSpec, sandbox: &Path) -> BTreeMap<String, String> {
    let home = sandbox.to_string_lossy().into_owned();
    let mut all = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOME".to_owned(), home),
    ]);
    all.extend(task.environment.clone());
    all
}

/// Adds the variables that identify the task, which override the task's own.
fn environment(
    shared: &RunnerState,
    start: &ContainerStart,
    mut variables: BTreeMap<String, String>,
    sandbox: &Path,
) -> Vec<(String, String)> {
    let settings = &shared.settings;
    let names = [
        ("ARGOSY_FRAMEWORK_ID", start.key.framework.to_string()),
        ("ARGOSY_AGENT_ID", start.name.instance.agent.to_string()),
        ("ARGOSY_ORDER", start.name.instance.order.0.to_string()),
        ("ARGOSY_SANDBOX", sandbox.to_string_lossy().into_owned()),
        ("ARGOSY_ADDRESS", settings.task_address.clone()),
        ("ARGOSY_AGENT_API", settings.address.clone()),
    ];
    let names = names.map(|(name, value)| (name.to_owned(), value));
    variables.extend(names);
    variables.extend(executors::variables(shared, start));
    variables.into_iter().collect()
}

/// Whether a container that no longer exists had certainly never started: its directory was never
/// created, or its handle records that the start was cancelled.
pub(crate) fn never_started(directory: &Path) -> bool {
    match std::fs::read(directory.join("handle.json")) {
        Ok(bytes) => serde_json::from_slice::<String>(&bytes).is_ok_and(|claim| claim == "void"),
        // A container whose directory cannot be read may have started.
        Err(_) => matches!(directory.try_exists(), Ok(false)),
    }
}

/// Returns the user of a task within its container.
pub(super) fn command_user(named: Option<&ContainerUser>) -> ContainerUser {
    named.cloned().unwrap_or(ContainerUser {
        uid: COMMAND_ID,
        gid: COMMAND_ID,
        groups: Vec::new(),
    })
}

/// Returns the user that a task runs as; `None` if it names none, or the agent's own user. The user
/// of an image is known only inside the container, which starts as root.
///
/// # Errors
/// If this host has no such user, or it cannot be looked up.
pub(super) fn user(
    task: &v1::TaskSpec,
    isolation: Isolation,
) -> Result<Option<ContainerUser>, CreateError> {
    if !image_rootfs::image_of(task).is_empty() {
        return Ok(Some(image_rootfs::ROOT));
    }
    match task.user.as_str() {
        "" => Ok(None),
        name => {
            let own = nix::unistd::geteuid();
            let user = ContainerUser::named(name).map_err(|error| no_user(name, &error))?;
            // With full isolation it is the container's user of that number. Other modes have only
            // the agent's own user; the launch of another one is refused.
            let is_own = isolation != Isolation::Full && user.uid == own.as_raw();
            Ok((!is_own).then_some(user))
        }
    }
}

/// Whether a user database of this host is asked for the task's user.
pub(super) fn names_host_user(task: &v1::TaskSpec) -> bool {
    !task.user.is_empty() && image_rootfs::image_of(task).is_empty()
}

/// Explains why a user was not found. The task must be changed only if the host certainly has no
/// such user: a directory service may be down.
fn no_user(name: &str, error: &SpecError) -> CreateError {
    match nix::unistd::User::from_name(name) {
        Ok(None) | Err(Errno::ENOENT | Errno::ESRCH) => invalid(error.to_string()),
        Ok(Some(_)) => failed(format!("cannot look up the groups of user {name:?}")),
        Err(errno) => failed(format!("cannot look up user {name:?}: {}", errno.desc())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_with_a_user_that_the_host_lacks_is_invalid() {
        for isolation in [Isolation::Full, Isolation::Processes] {
            let task = v1::TaskSpec {
                user: "no-such-user".to_owned(),
                ..v1::TaskSpec::default()
            };
            let refusal = user(&task, isolation).unwrap_err();
            assert_eq!(refusal.reason, Reason::TaskInvalid);
            assert_eq!(
                refusal.why.to_string(),
                "user \"no-such-user\" is not valid: name a user that exists on this host"
            );
        }
    }
}
