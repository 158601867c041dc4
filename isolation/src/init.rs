//! A container's first process: sets its world up, executes the command, reaps orphans.
//!
//! Process 1 of a pid namespace ignores signals that it has no handler for, so the command is its child:
//! there TERM means what it always means. Trusts nobody but the supervisor at the other end of its channel, and
//! ends, with all it contains, when that is gone: without a supervisor no deadline would be kept.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::setrlimit;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;

use crate::confinement::Confinement;
use crate::handoff::Usage;
use crate::network::Network;
use crate::process::kill_descendants;
use crate::seccomp::Filter;
use crate::spec::{Program, Spec};
use crate::sys::{self, ExecPointers};
use crate::view::Parts;
use crate::wire::{Instruction, Received, Report, Wait, receive_packet, send_packet};

/// Where commands are looked up when their environment has no `PATH`.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the supervisor hands its init.
pub(crate) struct Inherited<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) parts: Option<&'a Parts>,
    pub(crate) filter: &'a Filter,
    pub(crate) channel: &'a OwnedFd,
    pub(crate) null: &'a OwnedFd,
    pub(crate) stdout: &'a OwnedFd,
    pub(crate) stderr: &'a OwnedFd,
}

/// Why a command could not be executed, in words.
type Refusal = String;

/// Runs in the new process; returns its exit code. The command's status goes over the channel.
pub(crate) fn run(inherited: &Inherited<'_>) -> i32 {
    let channel = inherited.channel;
    let spec = inherited.spec;
    match start(inherited) {
        Ok(Some(command)) => {
            // A supervisor that is gone is noticed below.
            let _ = send_packet(channel, &Report::Started, Wait::Block);
            attend(channel, command);
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
fn start(inherited: &Inherited<'_>) -> Result<Option<i32>, Refusal> {
    let spec = inherited.spec;
    let words = |what: &str, errno: Errno| format!("cannot {what}: {}", errno.desc());
    for (source, target) in [
        (inherited.null, 0),
        (inherited.stdout, 1),
        (inherited.stderr, 2),
    ] {
        sys::replace_descriptor(source, target)
            .map_err(|errno| words("set up standard streams", errno))?;
    }
    // A name to recognise it by in a process list; nothing depends on it.
    let _ = nix::sys::prctl::set_name(c"argosy-init");
    if spec.has_user_namespace() && expect(inherited.channel) != Some(Instruction::Mapped) {
        return Ok(None);
    }
    if !spec.namespaces.pid {
        nix::sys::prctl::set_child_subreaper(true)
            .map_err(|errno| words("adopt orphans", errno))?;
    }
    enter_namespaces(inherited)?;
    sys::close_all_but(Some(inherited.channel.as_fd()))
        .map_err(|errno| words("close what the agent has open", errno))?;
    // Not root's right to read this process' memory, in which earlier launch requests may linger.
    nix::sys::prctl::set_dumpable(false).map_err(|errno| words("hide init's memory", errno))?;
    nix::sys::stat::umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let mut command = Command::prepare(inherited)?;
    if expect(inherited.channel) != Some(Instruction::Go) {
        return Ok(None);
    }
    let pid = command.execute(spec)?;
    // The pipes end with their last writer, and that must not be us.
    let null = null()?;
    for target in 0..=2 {
        sys::replace_descriptor(&null, target)
            .map_err(|errno| words("let go of the standard streams", errno))?;
    }
    Ok(Some(pid))
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

fn enter_namespaces(inherited: &Inherited<'_>) -> Result<(), Refusal> {
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
    if let Some((profile, parts)) = spec.profile.as_ref().zip(inherited.parts) {
        let view = &profile.view;
        crate::view::enter(view, parts, &spec.files, profile.walls, namespaces.cgroup)
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
        return Ok(());
    }
    let sandbox = spec.sandbox.as_path();
    nix::unistd::chdir(sandbox)
        .map_err(|errno| words(&format!("enter the sandbox {}", sandbox.display()), errno))
}

/// Everything the last step needs, so that it allocates nothing and cannot fail in a new way.
struct Command {
    shown: String,
    candidates: Vec<CString>,
    pointers: ExecPointers,
    confinement: Option<Confinement>,
}

impl Command {
    fn prepare(inherited: &Inherited<'_>) -> Result<Self, Refusal> {
        let spec = inherited.spec;
        let confinement = match &spec.profile {
            Some(profile) => Some(Confinement::prepare(
                profile,
                &spec.network,
                inherited.filter,
            )?),
            None => None,
        };
        let plain = |text: &str| CString::new(text).expect("the request was checked for NUL bytes");
        let arguments: Vec<String> = match &spec.program {
            Program::Shell(line) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
            Program::Arguments(arguments) => arguments.clone(),
        };
        let shown = arguments.first().cloned().unwrap_or_default();
        let path = spec.environment.iter().find(|(name, _)| name == "PATH");
        let path = path.map_or(USUAL_PATH, |(_, path)| path.as_str());
        let names = candidates(&shown, path);
        let environment = spec.environment.iter();
        Ok(Self {
            confinement,
            candidates: names.iter().map(|name| plain(name)).collect(),
            pointers: ExecPointers::new(
                arguments.iter().map(|argument| plain(argument)).collect(),
                environment
                    .map(|(name, value)| plain(&format!("{name}={value}")))
                    .collect(),
            ),
            shown,
        })
    }

    fn execute(&mut self, spec: &Spec) -> Result<i32, Refusal> {
        let mut refusal = None;
        let pid = sys::spawn_borrowing(&mut || refusal = Some(self.become_command(spec)))
            .map_err(|errno| format!("cannot make a process: {}", errno.desc()))?;
        match refusal {
            None => Ok(pid),
            Some(refusal) => {
                // Its status says nothing that the refusal does not.
                let _ = sys::wait_child(pid, true);
                Err(refusal)
            }
        }
    }

    /// Runs in the command's process; returns only if it cannot be executed.
    fn become_command(&mut self, spec: &Spec) -> Refusal {
        let words = |what: &str, errno: Errno| format!("cannot {what}: {}", errno.desc());
        if let Err(errno) = nix::unistd::setsid() {
            return words("make a session", errno);
        }
        for limit in &spec.resource_limits {
            let resource = crate::limits::resource(&limit.name).expect("the request was checked");
            if let Err(errno) = setrlimit(resource, limit.soft, limit.hard) {
                return words(&format!("set the resource limit {}", limit.name), errno);
            }
        }
        if let Some(Err(refusal)) = self
            .confinement
            .as_ref()
            .map(Confinement::forgo_capabilities)
        {
            return refusal;
        }
        if let Some(user) = &spec.user
            && let Err(errno) = sys::become_user(user.uid, user.gid, &user.groups)
        {
            return words(
                &format!("run as user {} group {}", user.uid, user.gid),
                errno,
            );
        }
        if let Some(Err(refusal)) = self.confinement.as_mut().map(Confinement::put_up_walls) {
            return refusal;
        }
        if let Err(errno) = sys::close_all_but(None) {
            return words("close what init has open", errno);
        }
        if let Err(errno) = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None) {
            return words("unblock signals", errno);
        }
        if let Some(Err(refusal)) = self
            .confinement
            .as_ref()
            .map(Confinement::filter_system_calls)
        {
            return refusal;
        }
        let mut worst = Errno::ENOENT;
        for candidate in &self.candidates {
            match sys::execute(candidate, &self.pointers) {
                // Looked up elsewhere, as a shell does; a file that may not be executed is remembered.
                Errno::ENOENT | Errno::ENOTDIR => {}
                Errno::EACCES => worst = Errno::EACCES,
                other => {
                    worst = other;
                    break;
                }
            }
        }
        let remedy = match worst {
            Errno::ENOENT => "; name a program of this host, or bring one with the task",
            Errno::EACCES => "; it must be a file that may be executed",
            _ => "",
        };
        format!("cannot start {:?}: {}{remedy}", self.shown, worst.desc())
    }
}

/// The paths at which a command may be, in the order in which they are tried.
fn candidates(name: &str, path: &str) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let folders = path.split(':');
    folders
        .map(|folder| match folder {
            "" => format!("./{name}"),
            folder => format!("{folder}/{name}"),
        })
        .collect()
}

/// Reaps, passes signals on, and reports the command's end; returns then, or when the supervisor is gone.
fn attend(channel: &OwnedFd, command: i32) {
    let mut children = SigSet::empty();
    children.add(nix::sys::signal::SIGCHLD);
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let Ok(children) = SignalFd::with_flags(&children, flags) else {
        return;
    };
    loop {
        // Looked at before waiting: the command may have ended before the descriptor was made.
        while let Ok(Some(ended)) = sys::wait_child(-1, false) {
            if ended.pid == command {
                let usage = Usage {
                    cpu_ms: ended.cpu_ms,
                    peak_memory_bytes: Some(ended.peak_memory_bytes),
                };
                let status = ended.status;
                // If the supervisor is gone there is nobody to tell.
                let _ = send_packet(channel, &Report::Ended { status, usage }, Wait::Block);
                return;
            }
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
        match receive_packet(channel, Wait::Return) {
            Ok(Received::Message(Instruction::Signal(signal))) => send_signal(command, signal),
            Ok(Received::Message(Instruction::Mapped | Instruction::Go) | Received::Nothing) => {}
            Ok(Received::Closed) | Err(_) => return,
        }
    }
}

fn send_signal(group: i32, signal: i32) {
    if let Ok(signal) = nix::sys::signal::Signal::try_from(signal) {
        // A group that is gone cannot be told anything.
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_in_the_given_path_only() {
        assert_eq!(candidates("./run", "/bin"), ["./run"]);
        assert_eq!(candidates("ls", "/a:/b"), ["/a/ls", "/b/ls"]);
        assert_eq!(candidates("ls", "/a::/b"), ["/a/ls", "./ls", "/b/ls"]);
    }
}
