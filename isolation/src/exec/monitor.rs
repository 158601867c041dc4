//! The exec monitor: a copy of init that starts one exec command, waits for it, and kills its
//! descendants.
//!
//! It holds nothing but its session. Orphans of the command are reparented to it, so none outlives
//! the session and none is left for init. If the container kills the monitor, which takes a process
//! of the same user, the session breaks off. The command then runs on until the container ends at
//! the latest.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Gid, Uid};

use super::{EntryRequest, Told, Wish, Work, terminal};
use crate::command::{Command, Refusal};
use crate::crash_points;
use crate::messages::{Received, Wait, packet_pair, receive_packet, send_packet, send_packet_with};
use crate::process::{kill_descendants, send_signal_to_group};
use crate::seccomp::Filter;
use crate::spec::{Spec, User};
use crate::sys;

/// Answers a session whose command cannot be executed.
pub(crate) fn refuse(session: &OwnedFd, reason: String) {
    // A client that has disconnected needs no answer.
    let _ = send_packet(session, &Told::Refused { reason }, Wait::Return);
}

/// Runs in a copy of init. Returns the exit code, which is not used.
pub(crate) fn keep(spec: &Spec, filter: &Filter, session: &OwnedFd) -> i32 {
    // A name for process lists; nothing depends on it.
    let _ = nix::sys::prctl::set_name(c"argosy-entry");
    crash_points::passed("entry.begun");
    if let Err(reason) = serve(spec, filter, session) {
        refuse(session, reason);
    }
    kill_descendants();
    0
}

fn serve(spec: &Spec, filter: &Filter, session: &OwnedFd) -> Result<(), Refusal> {
    let words = |what: &str, errno: Errno| format!("cannot {what}: {}", errno.desc());
    // Above all the channel: the supervisor must see init's end while an exec command runs.
    sys::close_all_but(Some(session.as_fd()))
        .map_err(|errno| words("close what init has open", errno))?;
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|errno| words("adopt the command's orphans", errno))?;
    let mut request: EntryRequest = match receive_packet(session, Wait::Block) {
        Ok(Received::Message(request)) => request,
        Ok(Received::Nothing | Received::Closed) => return Ok(()),
        Err(error) => return Err(format!("the request is invalid: {error}")),
    };
    request.look_up_user()?;
    let spec = request
        .applied_to(spec)
        .map_err(|error| error.to_string())?;
    let command = Command::prepare(&spec, filter);
    let streams = Pair::make(&request, spec.user.as_ref())?;
    let (report, its_report) = packet_pair().map_err(|errno| words("make a channel", errno))?;
    let made = sys::clone_process(0, None, || {
        let told = match become_entered(&request.work, &command, &streams.inner, &its_report) {
            Ok(told) => told,
            Err(reason) => Told::Refused { reason },
        };
        // If the monitor has exited, the session is closed as well.
        let _ = send_packet(&its_report, &told, Wait::Return);
        0
    });
    let made = made.map_err(|errno| words("make a process", errno))?;
    crash_points::passed("entry.command-made");
    let keeper = Keeper {
        session,
        command: made.pid,
        report: Some(report),
        streams: streams.outer,
        probes: matches!(request.work, Work::Probe(_)),
    };
    // The streams must close with the command, and its report with its execution: neither may stay
    // open here.
    drop((streams.inner, its_report));
    keeper.attend();
    Ok(())
}

/// Runs in the new process. Returns only if the command cannot be executed.
fn become_entered(
    work: &Work,
    command: &Command<'_>,
    streams: &Inner,
    report: &OwnedFd,
) -> Result<Told, Refusal> {
    let words = |what: &str, errno: Errno| format!("cannot {what}: {}", errno.desc());
    nix::unistd::setsid().map_err(|errno| words("make a session", errno))?;
    if let Inner::Terminal(terminal) = streams {
        rustix::process::ioctl_tiocsctty(terminal)
            .map_err(|errno| format!("cannot take the terminal: {errno}"))?;
    }
    for (target, source) in (0..).zip(streams.each()) {
        sys::replace_descriptor(source, target)
            .map_err(|errno| words("set up standard streams", errno))?;
    }
    command.settle(Some(report.as_fd()))?;
    match work {
        Work::Command(_) => Err(command.execute()),
        Work::Probe(probe) => Ok(Told::Probed(probe.ask())),
    }
}

/// The command's ends of its streams.
enum Inner {
    Pipes([OwnedFd; 3]),
    Terminal(OwnedFd),
}

impl Inner {
    fn each(&self) -> [&OwnedFd; 3] {
        match self {
            Self::Pipes([stdin, stdout, stderr]) => [stdin, stdout, stderr],
            Self::Terminal(terminal) => [terminal; 3],
        }
    }
}

/// Both ends of a command's streams.
struct Pair {
    inner: Inner,
    /// In the order that the agent expects.
    outer: Vec<OwnedFd>,
}

impl Pair {
    /// The command's ends belong to its user, who may then reopen them through `/dev/stdout` or the
    /// terminal's path.
    fn make(request: &EntryRequest, user: Option<&User>) -> Result<Self, Refusal> {
        let pair = match request.terminal {
            Some(size) => {
                let (master, terminal) = terminal::make(size)
                    .map_err(|error| format!("cannot make a terminal: {error}"))?;
                Self {
                    inner: Inner::Terminal(terminal),
                    outer: vec![master],
                }
            }
            None => {
                let pipe = || {
                    nix::unistd::pipe2(OFlag::O_CLOEXEC)
                        .map_err(|errno| format!("cannot make a pipe: {}", errno.desc()))
                };
                let (stdin, writer) = pipe()?;
                let (out_reader, stdout) = pipe()?;
                let (error_reader, stderr) = pipe()?;
                Self {
                    inner: Inner::Pipes([stdin, stdout, stderr]),
                    outer: vec![writer, out_reader, error_reader],
                }
            }
        };
        if let Some(user) = user {
            let uid = Some(Uid::from_raw(user.uid));
            // The file system sets a terminal's group.
            let gid = request.terminal.is_none().then(|| Gid::from_raw(user.gid));
            for stream in pair.inner.each() {
                nix::unistd::fchown(stream, uid, gid).map_err(|errno| {
                    format!("cannot give its user the streams: {}", errno.desc())
                })?;
            }
        }
        Ok(pair)
    }
}

/// The monitor while the exec command runs.
struct Keeper<'a> {
    session: &'a OwnedFd,
    command: i32,
    /// The channel on which the command's process reports errors before the execution, which closes
    /// it. `None` after that.
    report: Option<OwnedFd>,
    /// The agent's ends, until they are sent.
    streams: Vec<OwnedFd>,
    probes: bool,
}

impl Keeper<'_> {
    /// Returns when the command has ended or the client has disconnected.
    fn attend(mut self) {
        let mut children = SigSet::empty();
        children.add(nix::sys::signal::SIGCHLD);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let Ok(children) = SignalFd::with_flags(&children, flags) else {
            return refuse(self.session, "cannot watch the command".to_owned());
        };
        loop {
            // Checked before waiting: it may have ended before the descriptor was created.
            while let Ok(Some(ended)) = sys::wait_child(-1, false) {
                if ended.pid == self.command {
                    return self.ended(ended.status);
                }
            }
            let mut watched = vec![
                PollFd::new(children.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.session.as_fd(), PollFlags::POLLIN),
            ];
            let report = self.report.iter();
            watched.extend(report.map(|report| PollFd::new(report.as_fd(), PollFlags::POLLIN)));
            match poll(&mut watched, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
            while let Ok(Some(_)) = children.read_signal() {}
            if !self.listen() {
                return;
            }
            match receive_packet(self.session, Wait::Return) {
                Ok(Received::Message(Wish::Signal(signal))) => {
                    send_signal_to_group(self.command, signal);
                }
                Ok(Received::Nothing) => {}
                Ok(Received::Closed) | Err(_) => return,
            }
        }
    }

    /// Reads the report of the command's process. Returns false if the command is not executed.
    fn listen(&mut self) -> bool {
        let Some(report) = &self.report else {
            return true;
        };
        match receive_packet::<Told>(report, Wait::Return) {
            Ok(Received::Nothing) => true,
            Ok(Received::Message(told)) => {
                // A client that has disconnected needs no answer.
                let _ = send_packet(self.session, &told, Wait::Return);
                false
            }
            // A prober that closes it without a message was killed, as its status shows.
            Ok(Received::Closed) | Err(_) => {
                self.report = None;
                let streams = std::mem::take(&mut self.streams);
                let descriptors: Vec<_> = streams.iter().map(AsFd::as_fd).collect();
                // A disconnected client is detected by the end of the session.
                let told = self.probes
                    || send_packet_with(self.session, &Told::Started, &descriptors, Wait::Return)
                        .is_ok();
                crash_points::passed("entry.start-told");
                told
            }
        }
    }

    /// Messages that were sent before the end are handled first.
    fn ended(&mut self, status: i32) {
        if !self.listen() {
            return;
        }
        if self.probes {
            let reason = "the probe was killed before it had an answer";
            return refuse(self.session, reason.to_owned());
        }
        // A client that has disconnected needs no answer.
        let _ = send_packet(self.session, &Told::Ended { status }, Wait::Return);
    }
}
