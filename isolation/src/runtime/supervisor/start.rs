//! The start of a container: from a launch request to an init that may execute the command.
//!
//! The order matters: group, init inside it, handle on disk, release of init. Any failure before
//! the release undoes the earlier steps.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use argosy_host::packets::{WaitMode, error_chain, packet_pair, send_packet};
use argosy_host::sys::{self, ClonedChild};
use argosy_host::{BootTime, ProcessId};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Uid, fchown};

use super::SupervisorContext;
use super::attached::CommandInput;
use crate::cgroup::limits::LimitsError;
use crate::cgroup::{Cgroup, CgroupError};
use crate::confinement::device_filter::DeviceFilter;
use crate::confinement::port_filter;
use crate::rootfs::mount_calls::MountError;
use crate::rootfs::mounts::{ClonedMounts, PreparedMounts};
use crate::runtime::init;
use crate::runtime::messages::InitInstruction;
use crate::runtime::output::{CommandOutput, OutputError};
use crate::spec::limits::MissingControllers;
use crate::spec::profile::CONTAINER_IDS;
use crate::spec::{LaunchSpec, Network};
use crate::state_dir::{Handle, HandleFile, StateDirectory, StateDirectoryError};
use crate::testing::disable_layer::layer_disabled;
use argosy_host::crash_point;

/// The time in which a group must become empty when a start is undone.
const UNDO_TIMEOUT: Duration = Duration::from_secs(2);

/// The OOM score adjustment of its processes, of 1,000: the kernel prefers to kill them when the
/// host is out of memory.
const OOM_SCORE_ADJ: &str = "500";

/// The name that is reported as missing where no device filter can be attached.
const DEVICES: &str = "devices";

/// A container whose init is released to execute the command.
pub(super) struct StartedContainer {
    pub(super) handle: Handle,
    pub(super) group: Option<Cgroup>,
    pub(super) init: ClonedChild,
    pub(super) channel: OwnedFd,
    pub(super) outputs: CommandOutput,
    /// The outer end of its standard input, unless it has none, or a terminal.
    pub(super) input: Option<CommandInput>,
}

/// An error that prevented the start of a container.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error(transparent)]
    Files(#[from] StateDirectoryError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Limits(#[from] LimitsError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error("cannot make the container's first process with {namespaces}")]
    Clone { namespaces: String, source: Errno },
    #[error("cannot make the command's standard input")]
    Input { source: Errno },
    #[error("cannot make the container's channel")]
    Channel { source: Errno },
    #[error(transparent)]
    Mounts(#[from] MountError),
    #[error("{reason}")]
    Template { reason: String },
    #[error("cannot map the user into the user namespace")]
    MapUser { source: io::Error },
    #[error("cannot set the OOM score of the container")]
    OomScore { source: io::Error },
    #[error("cannot read the start time of process {pid}")]
    StartTime { pid: i32, source: io::Error },
    #[error("cannot release init to start")]
    LeaveHost { source: io::Error },
    #[error("cannot prepare plain processes")]
    Subreaper { source: Errno },
    #[error("cannot enter the network namespace that came with the launch")]
    Network { source: Errno },
    #[error("the launch was cancelled before it started")]
    Cancelled,
    #[error("its stop_after deadline passed before it was started")]
    DeadlineExceeded,
}

/// The descriptors that came with a launch.
struct ReceivedDescriptors {
    /// The network namespace that the container joins.
    namespace: Option<OwnedFd>,
    /// The file with its secrets.
    secrets: Option<OwnedFd>,
}

impl ReceivedDescriptors {
    /// The description shows which of them come with it.
    fn of(spec: &LaunchSpec, received: Vec<OwnedFd>) -> Self {
        let mut received = received.into_iter();
        let mut next = |is_sent: bool| is_sent.then(|| received.next()).flatten();
        Self {
            namespace: next(spec.network == Network::Joined),
            secrets: next(spec.has_delivered_secrets()),
        }
    }
}

/// `received` are the descriptors that came with the launch. They are closed when it returns.
pub(super) fn start(
    spec: &LaunchSpec,
    files: &StateDirectory,
    received: Vec<OwnedFd>,
    host: &SupervisorContext,
) -> Result<StartedContainer, StartError> {
    let received = ReceivedDescriptors::of(spec, received);
    if spec.network == Network::Joined {
        // Before init is created: its user namespace has no right to enter a namespace of the host.
        // The supervisor itself then stays in it, where later queries about the container run.
        let entered = received.namespace.as_ref().ok_or(Errno::EBADF);
        entered
            .and_then(|namespace| setns(namespace, CloneFlags::CLONE_NEWNET))
            .map_err(|source| StartError::Network { source })?;
        crash_point!("start.network-entered");
    }
    let (group, missing) = create_group(spec)?;
    let undo_group = group.clone();
    let secrets = received.secrets.as_ref();
    let started = start_in(spec, files, host, secrets, (group, missing));
    if started.is_err()
        && let Some(group) = undo_group
    {
        // `destroy` removes what cannot be undone now.
        let _ = group.remove(UNDO_TIMEOUT);
    }
    started
}

fn create_group(spec: &LaunchSpec) -> Result<(Option<Cgroup>, MissingControllers), StartError> {
    let Some(path) = &spec.cgroup else {
        return Ok((None, MissingControllers::default()));
    };
    let group = Cgroup::at(path);
    group.create()?;
    crash_point!("start.group-made");
    match spec.limits.apply(path, spec.missing) {
        Ok(missing) => {
            crash_point!("start.limits-written");
            Ok((Some(group), missing))
        }
        Err(error) => {
            let _ = group.remove(UNDO_TIMEOUT);
            Err(error.into())
        }
    }
}

fn start_in(
    spec: &LaunchSpec,
    files: &StateDirectory,
    host: &SupervisorContext,
    secrets: Option<&OwnedFd>,
    (group, mut missing): (Option<Cgroup>, MissingControllers),
) -> Result<StartedContainer, StartError> {
    let (outputs, [stdout, stderr]) = CommandOutput::create(spec)?;
    crash_point!("start.outputs-made");
    let (input, stdin) = input(spec)
        .map_err(|source| StartError::Input { source })?
        .unzip();
    let (channel, init_channel) = packet_pair().map_err(|source| StartError::Channel { source })?;
    let mut channel = Some(channel);
    if !spec.namespaces.pid {
        // If init is killed, its children are reparented to this process and not to the host's
        // process 1.
        nix::sys::prctl::set_child_subreaper(true)
            .map_err(|source| StartError::Subreaper { source })?;
    }
    let parts = open_mounts(spec, secrets)?;
    let inherited = init::InitContext {
        spec,
        mounts: parts.as_ref(),
        filter: &host.filter,
        channel: &init_channel,
        null: &host.null,
        stdin: stdin.as_ref(),
        stdout: &stdout,
        stderr: &stderr,
    };
    let group_fd = group.as_ref().map(Cgroup::open).transpose()?;
    let unfiltered = attach_filters(spec, group_fd.as_ref(), parts.as_ref(), host);
    missing
        .controllers
        .extend(unfiltered.into_iter().map(str::to_owned));
    let group_fd = group_fd.as_ref().map(AsFd::as_fd);
    let init = create_init(&inherited, host, group_fd, &mut channel)?;
    let channel = channel.expect("only init lets go of it");
    crash_point!("start.init-made");
    let prepared = PreparedInit {
        spec,
        files,
        host,
        init: &init,
        mounts: parts.as_ref(),
    };
    match prepared.claim(&channel, missing) {
        Ok(handle) => Ok(StartedContainer {
            handle,
            group,
            channel,
            init,
            outputs,
            input,
        }),
        Err(error) => {
            // It is not released yet, so no other process can be running.
            let _ = sys::pidfd_send_signal(init.handle.as_fd(), libc::SIGKILL);
            let _ = sys::wait_child(init.pid, true);
            Err(error)
        }
    }
}

/// Creates init. `channel` is the supervisor's end of init's channel.
fn create_init(
    context: &init::InitContext<'_>,
    host: &SupervisorContext,
    group: Option<BorrowedFd<'_>>,
    channel: &mut Option<OwnedFd>,
) -> Result<ClonedChild, StartError> {
    let spec = context.spec;
    let mut make = |clones: Option<&ClonedMounts>| {
        sys::clone_process(spec.clone_flags(), group, || {
            // Otherwise it would wait forever if the supervisor died before the release: it would
            // hold the supervisor's end open itself.
            *channel = None;
            init::run(context, clones)
        })
    };
    let made = match context.mounts {
        None => make(None),
        Some(parts) => {
            let template = host.template.as_ref();
            let template = template.map_err(|error| StartError::Template {
                reason: error_chain(error),
            })?;
            template.with_clones(parts, |clones| make(Some(&clones)))?
        }
    };
    made.map_err(|source| StartError::Clone {
        namespaces: format!("{} isolation", spec.isolation.name()),
        source,
    })
}

/// Returns init's mount namespace, if it has a separate one. Where it cannot be opened, init's exit
/// takes longer.
pub(super) fn mounts_of(spec: &LaunchSpec, init: i32) -> Option<OwnedFd> {
    let namespace = || fs::File::open(format!("/proc/{init}/ns/mnt")).ok();
    let namespace = spec.namespaces.mount.then(namespace).flatten();
    namespace.map(OwnedFd::from)
}

fn open_mounts(
    spec: &LaunchSpec,
    secrets: Option<&OwnedFd>,
) -> Result<Option<PreparedMounts>, StartError> {
    let take = |profile| {
        let shared = spec.shared_directory.as_deref();
        PreparedMounts::open(profile, &spec.sandbox, shared, &spec.devices, secrets)
    };
    let parts = spec.profile.as_ref().map(take).transpose()?;
    crash_point!("start.view-taken");
    Ok(parts)
}

/// Attaches the optional layers, without which a container starts all the same; returns those that
/// cannot be attached.
fn attach_filters(
    spec: &LaunchSpec,
    group: Option<&OwnedFd>,
    parts: Option<&PreparedMounts>,
    host: &SupervisorContext,
) -> Vec<&'static str> {
    let mut unfiltered = Vec::new();
    if let (Some(group), Some(parts)) = (group, parts)
        && !attach_device_filter(group.as_fd(), parts, host)
    {
        unfiltered.push(DEVICES);
    }
    if let Network::Host { ports: Some(ports) } = &spec.network
        && !group.is_some_and(|group| attach_port_filter(group.as_fd(), ports, host))
    {
        let landlock = spec
            .profile
            .as_ref()
            .is_some_and(|profile| profile.isolation_layers.landlock);
        unfiltered.push(port_filter::unenforced_name(landlock));
    }
    unfiltered
}

/// Returns whether the filter was attached.
fn attach_device_filter(
    group: BorrowedFd<'_>,
    parts: &PreparedMounts,
    host: &SupervisorContext,
) -> bool {
    layer_disabled!(Devices => return true);
    match (&parts.devices, &host.device_filter) {
        (_, None) => false,
        (None, Some(filter)) => filter.attach(group).is_ok(),
        (Some(own), Some(_)) => {
            DeviceFilter::load(&own.devices).is_ok_and(|filter| filter.attach(group).is_ok())
        }
    }
}

/// Returns whether the filter was attached.
fn attach_port_filter(group: BorrowedFd<'_>, ports: &[u16], host: &SupervisorContext) -> bool {
    layer_disabled!(Ports => return true);
    let filter = host.port_filter.as_ref();
    filter.is_some_and(|filter| filter.attach(group, ports).is_ok())
}

/// Creates a pipe to the command, whose end of it belongs to its user; `None` if no client may
/// write to it, or at a terminal.
fn input(spec: &LaunchSpec) -> Result<Option<(CommandInput, OwnedFd)>, Errno> {
    if spec.tty || !spec.stdin {
        return Ok(None);
    }
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    if let Some(user) = spec.host_user() {
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        fchown(&reader, Some(uid), Some(gid))?;
    }
    Ok(Some((CommandInput::pipe(writer)?, reader)))
}

/// An init that waits for its release.
struct PreparedInit<'a> {
    spec: &'a LaunchSpec,
    files: &'a StateDirectory,
    host: &'a SupervisorContext,
    init: &'a ClonedChild,
    mounts: Option<&'a PreparedMounts>,
}

impl PreparedInit<'_> {
    fn claim(&self, channel: &OwnedFd, missing: MissingControllers) -> Result<Handle, StartError> {
        let leave = |instruction| {
            send_packet(channel, &instruction, WaitMode::Block)
                .map_err(|source| StartError::LeaveHost { source })
        };
        if self.spec.has_user_namespace() {
            let mapped = match &self.spec.profile {
                Some(profile) => map_range(self.init.pid, profile.first_host_id),
                None => map_user(self.init.pid),
            };
            mapped.map_err(|source| StartError::MapUser { source })?;
            crash_point!("start.users-mapped");
            if let Some(parts) = self.mounts.filter(|parts| parts.has_owners()) {
                let users = fs::File::open(format!("/proc/{}/ns/user", self.init.pid))
                    .map_err(|source| StartError::MapUser { source })?;
                parts.map_owners(users.as_fd())?;
                crash_point!("start.owners-mapped");
            }
            if self.spec.profile.is_some() {
                // Before the host's own processes: the agent's tasks can be restarted.
                fs::write(
                    format!("/proc/{}/oom_score_adj", self.init.pid),
                    OOM_SCORE_ADJ,
                )
                .map_err(|source| StartError::OomScore { source })?;
            }
            leave(InitInstruction::Mapped)?;
            crash_point!("start.mapping-sent");
        }
        let process =
            |pid| ProcessId::of(pid).map_err(|source| StartError::StartTime { pid, source });
        let handle = Handle {
            version: 1,
            container: self.spec.id.clone(),
            nonce: self.spec.nonce,
            boot_id: self.host.boot_id.clone(),
            supervisor: process(std::process::id() as i32)?,
            init: process(self.init.pid)?,
            cgroup: self.spec.cgroup.clone(),
            missing,
            started_at_ms: wall_clock_ms(),
            attachable: true,
        };
        // The agent, or the whole host, may have been paused since the request: other nodes rely on
        // the deadline.
        let deadline = self.spec.stop_after.map(|stop_after| stop_after.deadline);
        if deadline.is_some_and(|deadline| deadline <= BootTime::now()) {
            return Err(StartError::DeadlineExceeded);
        }
        let held = HandleFile::Started(Box::new(handle.clone()));
        if self.files.claim(&held)? != held {
            return Err(StartError::Cancelled);
        }
        leave(InitInstruction::Go)?;
        crash_point!("start.leave-given");
        Ok(handle)
    }
}

/// Maps the user to itself: the user of the agent gains no access to the host's files.
fn map_user(init: i32) -> io::Result<()> {
    let directory = PathBuf::from(format!("/proc/{init}"));
    let uid = nix::unistd::geteuid();
    let gid = nix::unistd::getegid();
    // Without root, a group map is only allowed once groups can no longer be dropped.
    fs::write(directory.join("setgroups"), "deny")?;
    fs::write(directory.join("gid_map"), format!("{gid} {gid} 1"))?;
    fs::write(directory.join("uid_map"), format!("{uid} {uid} 1"))
}

/// Maps the container's users to other users of the host, which no account there has.
fn map_range(init: i32, first: u32) -> io::Result<()> {
    let directory = PathBuf::from(format!("/proc/{init}"));
    let map = format!("0 {first} {CONTAINER_IDS}");
    fs::write(directory.join("gid_map"), &map)?;
    fs::write(directory.join("uid_map"), &map)
}

/// Returns milliseconds since 1970, for display.
pub(super) fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
