//! A container's first process: sets its world up, executes the command, reaps orphans.
//!
//! Process 1 of a pid namespace ignores signals that it has no handler for, so the command is its child:
//! there TERM means what it always means. Commands that enter later come from here, too (`entry`). Trusts
//! nobody but the supervisor at the other end of its channel, and ends, with all it contains, when that is
//! gone: without a supervisor no deadline would be kept.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;

use crate::command::{Command, Refusal};
use crate::crash_points;
use crate::disable_layer::{self, Wall};
use crate::drop_privileges::enter_domain;
use crate::exec;
use crate::image;
use crate::messages::{
    Instruction, Received, Report, Wait, receive_packet, receive_packet_with, send_packet,
    send_packet_with,
};
use crate::mounts::{Clones, Gift, Parts, SANDBOX};
use crate::network::Network;
use crate::process::{kill_descendants, send_signal_to_group};
use crate::seccomp::Filter;
use crate::spec::Spec;
use crate::state_dir::Usage;
use crate::sys;

/// How many entered commands a container may have at a time; a further one is refused in words.
const ENTRIES: usize = 64;

/// The variable in which programs look for their user's home.
const HOME: &str = "HOME";

/// What the supervisor hands its init.
pub(crate) struct Inherited<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) parts: Option<&'a Parts>,
    pub(crate) filter: &'a Filter,
    pub(crate) channel: &'a OwnedFd,
    pub(crate) null: &'a OwnedFd,
    /// The command's standard input; `None`: nothing.
    pub(crate) stdin: Option<&'a OwnedFd>,
    pub(crate) stdout: &'a OwnedFd,
    pub(crate) stderr: &'a OwnedFd,
}

/// Runs in the new process; returns its exit code. The command's status goes over the channel.
pub(crate) fn run(inherited: &Inherited<'_>, clones: Option<&Clones>) -> i32 {
    let channel = inherited.channel;
    // What is known only inside is filled in: who the image's user is.
    let mut spec = inherited.spec.clone();
    match start(inherited, clones, &mut spec) {
        Ok(Some(command)) => {
            // A supervisor that is gone is noticed below.
            let _ = send_packet(channel, &Report::Started, Wait::Block);
            crash_points::passed("init.start-told");
            let init = Init {
                inherited,
                spec: &spec,
                command,
                entries: Vec::new(),
            };
            init.attend();
        }
        Ok(None) => {}
        Err(reason) => drop(send_packet(
            channel,
            &Report::Failed { reason },
            Wait::Block,
        )),
    }
    if !spec.namespaces.pid {
        kill_descendants();
    }
    // In a pid namespace the kernel now kills whatever else lives in it.
    0
}

/// `None` if the supervisor went away before it gave leave.
fn start(
    inherited: &Inherited<'_>,
    clones: Option<&Clones>,
    spec: &mut Spec,
) -> Result<Option<i32>, Refusal> {
    let words = |what: &str, errno: Errno| format!("cannot {what}: {}", errno.desc());
    for (source, target) in [
        (inherited.stdin.unwrap_or(inherited.null), 0),
        (inherited.stdout, 1),
        (inherited.stderr, 2),
    ] {
        sys::replace_descriptor(source, target)
            .map_err(|errno| words("set up standard streams", errno))?;
    }
    // A name to recognise it by in a process list; nothing depends on it.
    let _ = nix::sys::prctl::set_name(c"argosy-init");
    crash_points::passed("init.begun");
    if spec.has_user_namespace() && expect(inherited.channel) != Some(Instruction::Mapped) {
        return Ok(None);
    }
    crash_points::passed("init.users-mapped");
    if !spec.namespaces.pid {
        nix::sys::prctl::set_child_subreaper(true)
            .map_err(|errno| words("adopt orphans", errno))?;
    }
    // Before the view is made: its folders are for all users of the container, whatever the agent's mask is.
    nix::sys::stat::umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let gifts = enter_namespaces(inherited, clones)?;
    crash_points::passed("init.view-entered");
    if let Some(name) = spec.image_user.take() {
        become_user_of_image(spec, &name)?;
        crash_points::passed("init.user-found");
    }
    gifts
        .iter()
        .try_for_each(|gift| gift.give(spec.user.as_ref()))
        .map_err(|error| crate::supervisor::sentence(&error))?;
    drop(gifts);
    sys::close_all_but(Some(inherited.channel.as_fd()))
        .map_err(|errno| words("close what the agent has open", errno))?;
    crash_points::passed("init.descriptors-closed");
    // Not root's right to read this process' memory, in which earlier launch requests may linger.
    nix::sys::prctl::set_dumpable(false).map_err(|errno| words("hide init's memory", errno))?;
    if let Some(profile) = &spec.profile {
        enter_domain(profile, &spec.network)?;
        crash_points::passed("init.domain-entered");
    }
    let command = Command::prepare(spec, inherited.filter);
    if expect(inherited.channel) != Some(Instruction::Go) {
        return Ok(None);
    }
    crash_points::passed("init.leave-taken");
    let streams = if spec.tty {
        take_terminal(inherited.channel, spec)?;
        Streams::Terminal
    } else {
        Streams::Others
    };
    let pid = execute(&command, streams)?;
    crash_points::passed("init.command-made");
    show_memory_if_breached()?;
    // The pipes end with their last writer, and that must not be us.
    let null = null()?;
    for target in 0..=2 {
        sys::replace_descriptor(&null, target)
            .map_err(|errno| words("let go of the standard streams", errno))?;
    }
    Ok(Some(pid))
}

/// Where tests take that wall away: the command's process, which shared our memory, has hidden it again when it changed its
/// user.
fn show_memory_if_breached() -> Result<(), Refusal> {
    if disable_layer::stands(Wall::Init) {
        return Ok(());
    }
    nix::sys::prctl::set_dumpable(true)
        .map_err(|errno| format!("cannot show init's memory: {}", errno.desc()))
}

/// Looks a user up in the root that init is in now, gives it the sandbox, and tells it of its home unless somebody has.
fn become_user_of_image(spec: &mut Spec, name: &str) -> Result<(), Refusal> {
    let wanted = image::Wanted::parse(name).expect("the request was checked");
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

/// What this process has for standard streams.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Streams {
    Terminal,
    Others,
}

/// Makes a terminal of the container's own and gives both sides to the supervisor; its user's is the command's side, and
/// from now on our standard streams.
fn take_terminal(channel: &OwnedFd, spec: &Spec) -> Result<(), Refusal> {
    let words = |what: &str, errno: Errno| format!("cannot {what}: {}", errno.desc());
    let (master, command_side) = exec::make_terminal(exec::USUAL_SIZE)
        .map_err(|error| format!("cannot make a terminal: {error}"))?;
    if let Some(user) = &spec.user {
        let uid = Some(nix::unistd::Uid::from_raw(user.uid));
        // A terminal's group is the file system's affair.
        nix::unistd::fchown(&command_side, uid, None)
            .map_err(|errno| words("give its user the terminal", errno))?;
    }
    let sides = [master.as_fd(), command_side.as_fd()];
    send_packet_with(channel, &Report::Terminal, &sides, Wait::Block)
        .map_err(|error| format!("cannot hand the terminal over: {error}"))?;
    for target in 0..=2 {
        sys::replace_descriptor(&command_side, target)
            .map_err(|errno| words("set up standard streams", errno))?;
    }
    Ok(())
}

/// Makes the container's command; returns its number.
fn execute(command: &Command<'_>, streams: Streams) -> Result<i32, Refusal> {
    let mut refusal = None;
    let pid = sys::spawn_borrowing(&mut || {
        let session = nix::unistd::setsid();
        let settled = session
            .map_err(|errno| format!("cannot make a session: {}", errno.desc()))
            .and_then(|_| match streams {
                Streams::Terminal => rustix::process::ioctl_tiocsctty(io::stdin())
                    .map_err(|error| format!("cannot take the terminal: {error}")),
                Streams::Others => Ok(()),
            })
            .and_then(|()| command.settle(None));
        refusal = Some(match settled {
            Ok(()) => {
                crash_points::passed("command.settled");
                command.execute()
            }
            Err(refusal) => refusal,
        });
    });
    let pid = pid.map_err(|errno| format!("cannot make a process: {}", errno.desc()))?;
    match refusal {
        None => Ok(pid),
        Some(refusal) => {
            // Its status says nothing that the refusal does not.
            let _ = sys::wait_child(pid, true);
            Err(refusal)
        }
    }
}

fn null() -> Result<fs::File, Refusal> {
    let mut options = fs::OpenOptions::new();
    let opened = options.read(true).write(true).open("/dev/null");
    opened.map_err(|error| format!("cannot open /dev/null: {error}"))
}

fn expect(channel: &OwnedFd) -> Option<Instruction> {
    match receive_packet(channel, Wait::Block) {
        Ok(Received::Message(instruction)) => Some(instruction),
        Ok(Received::Nothing | Received::Closed) | Err(_) => None,
    }
}

/// Returns what the command's user is to be given.
fn enter_namespaces(
    inherited: &Inherited<'_>,
    clones: Option<&Clones>,
) -> Result<Vec<Gift>, Refusal> {
    let spec = inherited.spec;
    let words = |what: &str, errno: Errno| format!("cannot {what}: {}", errno.desc());
    let namespaces = spec.namespaces;
    if spec.profile.is_some() {
        sys::become_user(0, 0, &[])
            .map_err(|errno| words("become root of the user namespace", errno))?;
    }
    if spec.network == Network::None {
        crate::network::raise_loopback()
            .map_err(|error| format!("cannot raise the loopback device: {error}"))?;
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
    let mut gifts = Vec::new();
    if let (Some(profile), Some(parts), Some(clones)) = (&spec.profile, inherited.parts, clones) {
        let (view, files, walls) = (&profile.view, &spec.files, profile.walls);
        gifts = crate::mounts::enter(view, parts, clones, files, walls, namespaces.cgroup)
            .map_err(|error| crate::supervisor::sentence(&error))?;
    } else if namespaces.mount && namespaces.pid {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)
            .map_err(|errno| words("mount a /proc of its own", errno))?;
    }
    if let Some(hostname) = spec.hostname.as_ref().filter(|_| namespaces.uts) {
        nix::unistd::sethostname(hostname).map_err(|errno| words("set the host name", errno))?;
    }
    if spec.profile.is_some() {
        return Ok(gifts);
    }
    let sandbox = spec.sandbox.as_path();
    nix::unistd::chdir(sandbox)
        .map_err(|errno| words(&format!("enter the sandbox {}", sandbox.display()), errno))?;
    Ok(gifts)
}

/// Init while the container's command runs.
struct Init<'a> {
    inherited: &'a Inherited<'a>,
    spec: &'a Spec,
    command: i32,
    /// The keepers of entered commands.
    entries: Vec<i32>,
}

impl Init<'_> {
    /// Reaps, passes signals on, lets commands in, and reports the command's end; returns then, or when the
    /// supervisor is gone.
    fn attend(mut self) {
        let channel = self.inherited.channel;
        let mut children = SigSet::empty();
        children.add(nix::sys::signal::SIGCHLD);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let Ok(children) = SignalFd::with_flags(&children, flags) else {
            return;
        };
        loop {
            // Looked at before waiting: the command may have ended before the descriptor was made.
            while let Ok(Some(ended)) = sys::wait_child(-1, false) {
                if ended.pid == self.command {
                    crash_points::passed("init.command-reaped");
                    let usage = Usage {
                        cpu_ms: ended.cpu_ms,
                        peak_memory_bytes: Some(ended.peak_memory_bytes),
                    };
                    let status = ended.status;
                    // If the supervisor is gone there is nobody to tell.
                    let _ = send_packet(channel, &Report::Ended { status, usage }, Wait::Block);
                    crash_points::passed("init.end-told");
                    return;
                }
                self.entries.retain(|pid| *pid != ended.pid);
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
            match receive_packet_with(channel, Wait::Return) {
                Ok(Received::Message((Instruction::Signal(signal), _))) => {
                    send_signal_to_group(self.command, signal);
                }
                Ok(Received::Message((Instruction::Enter, descriptors))) => {
                    descriptors
                        .into_iter()
                        .for_each(|session| self.admit(&session));
                }
                Ok(Received::Message((Instruction::Mapped | Instruction::Go, _)))
                | Ok(Received::Nothing) => {}
                Ok(Received::Closed) | Err(_) => return,
            }
        }
    }

    /// Each gets a keeper of its own: a copy of init, which has all that a command of this container needs.
    fn admit(&mut self, session: &OwnedFd) {
        if self.entries.len() >= ENTRIES {
            let reason = format!("{ENTRIES} commands have entered this container: end one first");
            return exec::refuse(session, reason);
        }
        let (spec, filter) = (self.spec, self.inherited.filter);
        match sys::clone_process(0, None, || exec::keep(spec, filter, session)) {
            Ok(keeper) => {
                crash_points::passed("init.entry-made");
                self.entries.push(keeper.pid);
            }
            Err(errno) => {
                exec::refuse(session, format!("cannot make a process: {}", errno.desc()));
            }
        }
    }
}
