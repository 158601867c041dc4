//! A container's first process: sets up its environment, executes the command, reaps orphans.
//!
//! Process 1 of a pid namespace ignores signals without a handler, so the command is its child,
//! where TERM has its usual effect. Commands of exec sessions are started here as well (`exec`). It
//! trusts only the supervisor at the other end of its channel. When the supervisor exits, it exits
//! with all the processes that it contains, because no deadline would be enforced without a
//! supervisor.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use argosy_host::packets::{
    ReceiveResult, WaitMode, error_chain, limit_text, receive_packet, receive_packet_with,
    send_packet, send_packet_with,
};
use argosy_host::process::{kill_descendants, send_signal_to_group};
use argosy_host::sys;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;

use crate::confinement::drop_privileges::close_all_but;
use crate::confinement::drop_privileges::enter_domain;
use crate::confinement::seccomp::SeccompFilter;
use crate::rootfs::image;
use crate::rootfs::mounts::{ClonedMounts, PendingChown, PreparedMounts};
use crate::runtime::command::{ExecuteError, PreparedCommand};
use crate::runtime::exec;
use crate::runtime::messages::{InitInstruction, InitReport};
use crate::spec::mounts::SANDBOX;
use crate::spec::{LaunchSpec, Network, UserSpec};
use crate::state_dir::LifetimeUsage;
use crate::testing::disable_layer::layer_disabled;
use argosy_host::crash_point;

/// The maximum number of concurrent exec sessions of a container; a further one is refused with a
/// message.
const ENTRIES: usize = 64;

/// The variable of the user's home directory.
const HOME: &str = "HOME";

/// The state that init inherits from the supervisor.
pub(crate) struct InitContext<'a> {
    pub(crate) spec: &'a LaunchSpec,
    pub(crate) mounts: Option<&'a PreparedMounts>,
    pub(crate) filter: &'a SeccompFilter,
    pub(crate) channel: &'a OwnedFd,
    pub(crate) null: &'a OwnedFd,
    /// The command's standard input; `None`: empty.
    pub(crate) stdin: Option<&'a OwnedFd>,
    pub(crate) stdout: &'a OwnedFd,
    pub(crate) stderr: &'a OwnedFd,
}

/// Runs in the new process; returns its exit code, which is not used. The command's status is sent
/// over the channel.
pub(crate) fn run(inherited: &InitContext<'_>, clones: Option<&ClonedMounts>) -> i32 {
    let channel = inherited.channel;
    // Fills in what is known only inside: the image's user.
    let mut spec = inherited.spec.clone();
    match start(inherited, clones, &mut spec) {
        Ok(Some(command)) => {
            // A missing supervisor is detected below.
            let _ = send_packet(channel, &InitReport::Started, WaitMode::Block);
            crash_point!("init.start-sent");
            let init = Init {
                context: inherited,
                spec: &spec,
                command,
                monitors: Vec::new(),
            };
            init.run();
        }
        Ok(None) => {}
        Err(reason) => {
            // Images and tasks choose the length of names in it.
            let reason = limit_text(reason);
            // A missing supervisor needs no report.
            let _ = send_packet(channel, &InitReport::Failed { reason }, WaitMode::Block);
        }
    }
    if !spec.namespaces.pid {
        kill_descendants();
    }
    // In a pid namespace the kernel now kills all remaining processes.
    0
}

/// Returns `None` if the supervisor exited before it released init.
fn start(
    context: &InitContext<'_>,
    clones: Option<&ClonedMounts>,
    spec: &mut LaunchSpec,
) -> Result<Option<i32>, ExecuteError> {
    let words = |what: &str, errno: Errno| format!("cannot {what}: {}", errno.desc());
    for (source, target) in [
        (context.stdin.unwrap_or(context.null), 0),
        (context.stdout, 1),
        (context.stderr, 2),
    ] {
        sys::replace_descriptor(source, target)
            .map_err(|errno| words("set up standard streams", errno))?;
    }
    // A name for process lists; nothing depends on it.
    let _ = nix::sys::prctl::set_name(c"argosy-init");
    crash_point!("init.begun");
    if spec.has_user_namespace() && receive(context.channel) != Some(InitInstruction::Mapped) {
        return Ok(None);
    }
    crash_point!("init.users-mapped");
    if !spec.namespaces.pid {
        nix::sys::prctl::set_child_subreaper(true)
            .map_err(|errno| words("adopt orphans", errno))?;
    }
    // Before the mounts are set up: their directories are for all users of the container, whatever
    // the agent's umask is.
    nix::sys::stat::umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let pending_chowns = enter_namespaces(context, clones)?;
    crash_point!("init.view-entered");
    if let Some(name) = spec.image_user.take() {
        switch_to_image_user(spec, &name)?;
        crash_point!("init.user-found");
    }
    pending_chowns
        .iter()
        .try_for_each(|chown| chown.apply(spec.user.as_ref()))
        .map_err(|error| error_chain(&error))?;
    drop(pending_chowns);
    close_all_but(Some(context.channel.as_fd()))
        .map_err(|errno| words("close what the agent has open", errno))?;
    crash_point!("init.descriptors-closed");
    // Root of the container may not read this process's memory, which may still hold earlier launch
    // requests.
    nix::sys::prctl::set_dumpable(false).map_err(|errno| words("hide init's memory", errno))?;
    if let Some(profile) = &spec.profile {
        enter_domain(profile, &spec.network)?;
        crash_point!("init.domain-entered");
    }
    let command = PreparedCommand::prepare(spec, context.filter);
    if receive(context.channel) != Some(InitInstruction::Go) {
        return Ok(None);
    }
    crash_point!("init.leave-taken");
    let streams = if spec.tty {
        take_terminal(context.channel, spec)?;
        StdioKind::Terminal
    } else {
        StdioKind::Pipes
    };
    let pid = execute(&command, streams)?;
    crash_point!("init.command-made");
    layer_disabled!(Init => expose_memory()?);
    // The pipes close with their last writer, which must not be init.
    let null = null()?;
    for target in 0..=2 {
        sys::replace_descriptor(&null, target)
            .map_err(|errno| words("release the standard streams", errno))?;
    }
    Ok(Some(pid))
}

/// Implements the disabled layer `Init`: makes init's memory readable again. The command's process,
/// which shared this memory, made it non-dumpable again when it changed its user.
fn expose_memory() -> Result<(), ExecuteError> {
    nix::sys::prctl::set_dumpable(true)
        .map_err(|errno| format!("cannot show init's memory: {}", errno.desc()))
}

/// Resolves a user in init's current root, gives it the sandbox, and sets HOME unless it is set.
fn switch_to_image_user(spec: &mut LaunchSpec, name: &str) -> Result<(), ExecuteError> {
    let wanted = UserSpec::parse(name).expect("the request was checked");
    let root = fs::File::open("/").map_err(|error| format!("cannot open the root: {error}"))?;
    let user = image::user(root.as_fd(), &wanted)?;
    let profile = spec.profile.as_ref();
    if user.is_of_root() && profile.is_some_and(|profile| profile.view.has_mapped_owners()) {
        return Err(format!(
            "user {name:?} is root of the image or in its group, and on host paths its users are the host's: name another"
        ));
    }
    std::os::unix::fs::lchown(SANDBOX, Some(user.uid), Some(user.gid)).map_err(|error| {
        format!("cannot give the sandbox to user {name:?}: {error}; it must belong to the container's root")
    })?;
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let stdin = (spec.stdin && !spec.tty).then(|| stdin.as_fd());
    for stream in [stdout.as_fd(), stderr.as_fd()].into_iter().chain(stdin) {
        std::os::unix::fs::fchown(stream, Some(user.uid), Some(user.gid))
            .map_err(|error| format!("cannot give its streams to user {name:?}: {error}"))?;
    }
    if !spec.environment.iter().any(|(name, _)| name == HOME) {
        let home = image::home(root.as_fd(), &wanted)?;
        spec.environment.push((HOME.to_owned(), home));
    }
    spec.user = Some(user);
    Ok(())
}

/// The standard streams of this process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StdioKind {
    Terminal,
    Pipes,
}

/// Creates a terminal in the container and sends both ends to the supervisor. Its user owns the
/// command's end, which becomes the standard streams of init.
fn take_terminal(channel: &OwnedFd, spec: &LaunchSpec) -> Result<(), ExecuteError> {
    let words = |what: &str, errno: Errno| format!("cannot {what}: {}", errno.desc());
    let (master, command_side) = exec::make_terminal(exec::DEFAULT_SIZE)
        .map_err(|error| format!("cannot make a terminal: {error}"))?;
    if let Some(user) = &spec.user {
        let uid = Some(nix::unistd::Uid::from_raw(user.uid));
        // The file system sets a terminal's group.
        nix::unistd::fchown(&command_side, uid, None)
            .map_err(|errno| words("give its user the terminal", errno))?;
    }
    let sides = [master.as_fd(), command_side.as_fd()];
    send_packet_with(channel, &InitReport::Terminal, &sides, WaitMode::Block)
        .map_err(|error| format!("cannot pass the terminal on: {error}"))?;
    for target in 0..=2 {
        sys::replace_descriptor(&command_side, target)
            .map_err(|errno| words("set up standard streams", errno))?;
    }
    Ok(())
}

/// Starts the container's command; returns its process id.
fn execute(command: &PreparedCommand<'_>, streams: StdioKind) -> Result<i32, ExecuteError> {
    let mut refusal = None;
    let pid = sys::spawn_borrowing(&mut || {
        let session = nix::unistd::setsid();
        let settled = session
            .map_err(|errno| format!("cannot make a session: {}", errno.desc()))
            .and_then(|_| match streams {
                StdioKind::Terminal => rustix::process::ioctl_tiocsctty(io::stdin())
                    .map_err(|error| format!("cannot take the terminal: {error}")),
                StdioKind::Pipes => Ok(()),
            })
            .and_then(|()| command.confine(None));
        refusal = Some(match settled {
            Ok(()) => {
                crash_point!("command.settled");
                command.execute()
            }
            Err(refusal) => refusal,
        });
    });
    let pid = pid.map_err(|errno| format!("cannot make a process: {}", errno.desc()))?;
    match refusal {
        None => Ok(pid),
        Some(refusal) => {
            // The reported refusal is more precise than its status.
            let _ = sys::wait_child(pid, true);
            Err(refusal)
        }
    }
}

fn null() -> Result<fs::File, ExecuteError> {
    let mut options = fs::OpenOptions::new();
    let opened = options.read(true).write(true).open("/dev/null");
    opened.map_err(|error| format!("cannot open /dev/null: {error}"))
}

fn receive(channel: &OwnedFd) -> Option<InitInstruction> {
    match receive_packet(channel, WaitMode::Block) {
        Ok(ReceiveResult::Message(instruction)) => Some(instruction),
        Ok(ReceiveResult::Nothing | ReceiveResult::Closed) | Err(_) => None,
    }
}

/// Returns the file that the command's user must be given.
fn enter_namespaces(
    context: &InitContext<'_>,
    clones: Option<&ClonedMounts>,
) -> Result<Vec<PendingChown>, ExecuteError> {
    let spec = context.spec;
    let words = |what: &str, errno: Errno| format!("cannot {what}: {}", errno.desc());
    let namespaces = spec.namespaces;
    if spec.profile.is_some() {
        sys::become_user(0, 0, &[])
            .map_err(|errno| words("become root of the user namespace", errno))?;
    }
    if spec.network == Network::None {
        argosy_network::bring_up_loopback()
            .map_err(|error| format!("cannot set up the loopback device: {error}"))?;
    }
    if namespaces.cgroup {
        unshare(CloneFlags::CLONE_NEWCGROUP)
            .map_err(|errno| words("make a cgroup namespace", errno))?;
    }
    if namespaces.mount {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .map_err(|errno| words("make mounts private", errno))?;
    }
    let mut pending_chowns = Vec::new();
    if let (Some(profile), Some(parts), Some(clones)) = (&spec.profile, context.mounts, clones) {
        let (view, files, isolation_layers) =
            (&profile.view, &spec.files, profile.isolation_layers);
        pending_chowns = crate::rootfs::mounts::enter(
            view,
            parts,
            clones,
            files,
            isolation_layers,
            namespaces.cgroup,
        )
        .map_err(|error| error_chain(&error))?;
    } else if namespaces.mount && namespaces.pid {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)
            .map_err(|errno| words("mount a new /proc", errno))?;
    }
    if let Some(hostname) = spec.hostname.as_ref().filter(|_| namespaces.uts) {
        nix::unistd::sethostname(hostname).map_err(|errno| words("set the host name", errno))?;
    }
    if spec.profile.is_some() {
        return Ok(pending_chowns);
    }
    let sandbox = spec.sandbox.as_path();
    nix::unistd::chdir(sandbox)
        .map_err(|errno| words(&format!("enter the sandbox {}", sandbox.display()), errno))?;
    Ok(pending_chowns)
}

/// Init while the container's command runs.
struct Init<'a> {
    context: &'a InitContext<'a>,
    spec: &'a LaunchSpec,
    command: i32,
    /// The monitors of exec sessions.
    monitors: Vec<i32>,
}

impl Init<'_> {
    /// Reaps children, forwards signals, starts exec sessions, and reports the command's end.
    /// Returns then, or when the supervisor has exited.
    fn run(mut self) {
        let channel = self.context.channel;
        let mut children = SigSet::empty();
        children.add(nix::sys::signal::SIGCHLD);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let Ok(children) = SignalFd::with_flags(&children, flags) else {
            return;
        };
        loop {
            // Checked before waiting: the command may have ended before the descriptor was created.
            while let Ok(Some(ended)) = sys::wait_child(-1, false) {
                if ended.pid == self.command {
                    crash_point!("init.command-reaped");
                    let usage = LifetimeUsage {
                        cpu_ms: ended.cpu_ms,
                        peak_memory_bytes: Some(ended.peak_memory_bytes),
                    };
                    let status = ended.status;
                    // If the supervisor has exited, the report is not needed.
                    let _ = send_packet(
                        channel,
                        &InitReport::Ended { status, usage },
                        WaitMode::Block,
                    );
                    crash_point!("init.end-sent");
                    return;
                }
                self.monitors.retain(|pid| *pid != ended.pid);
            }
            let mut watched = [
                PollFd::new(children.as_fd(), PollFlags::POLLIN),
                PollFd::new(channel.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut watched, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
            while let Ok(Some(_)) = children.read_signal() {}
            match receive_packet_with(channel, WaitMode::Return) {
                Ok(ReceiveResult::Message((InitInstruction::Signal(signal), _))) => {
                    send_signal_to_group(self.command, signal);
                }
                Ok(ReceiveResult::Message((InitInstruction::Exec, descriptors))) => {
                    descriptors
                        .into_iter()
                        .for_each(|session| self.start_monitor(&session));
                }
                Ok(ReceiveResult::Message((InitInstruction::Mapped | InitInstruction::Go, _)))
                | Ok(ReceiveResult::Nothing) => {}
                Ok(ReceiveResult::Closed) | Err(_) => return,
            }
        }
    }

    /// Starts an exec monitor for the session: a copy of init, which has everything that a command
    /// of this container needs.
    fn start_monitor(&mut self, session: &OwnedFd) {
        if self.monitors.len() >= ENTRIES {
            let reason = format!("this container has {ENTRIES} exec sessions: end one first");
            return exec::refuse(session, reason);
        }
        let (spec, filter) = (self.spec, self.context.filter);
        match sys::clone_process(0, None, || exec::run_monitor(spec, filter, session)) {
            Ok(monitor) => {
                crash_point!("init.entry-made");
                self.monitors.push(monitor.pid);
            }
            Err(errno) => {
                exec::refuse(session, format!("cannot make a process: {}", errno.desc()));
            }
        }
    }
}
