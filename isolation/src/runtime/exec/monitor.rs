//! The exec monitor: a copy of init that starts one exec command, waits for it, and kills its
//! descendants.
//!
//! It holds nothing but its session. Orphans of the command are reparented to it, so none outlives
//! the session and none is left for init. If the container kills the monitor, which takes a process
//! of the same user, the session breaks off. The command then runs on until the container ends at
//! the latest.

use std::os::fd::{AsFd, OwnedFd};

use argosy_host::packets::{
    ReceiveResult, WaitMode, limit_text, packet_pair, receive_packet, send_packet, send_packet_with,
};
use argosy_host::process::{kill_descendants, send_signal_to_group};
use argosy_host::sys;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Gid, Uid};

use super::{ExecAction, ExecRequest, MonitorMessage, MonitorRequest, terminal};
use crate::confinement::drop_privileges::close_all_but;
use crate::confinement::seccomp::SeccompFilter;
use crate::runtime::command::{ExecuteError, PreparedCommand};
use crate::spec::{ContainerUser, LaunchSpec};
use argosy_host::crash_point;

/// Answers a session whose command cannot be executed.
pub(crate) fn refuse(session: &OwnedFd, reason: String) {
    // A client that has disconnected needs no answer.
    let _ = send_packet(
        session,
        &MonitorMessage::Refused {
            // Clients and images choose the length of names in it.
            reason: limit_text(reason),
        },
        WaitMode::Return,
    );
}

/// Runs in a copy of init. Returns the exit code, which is not used.
pub(crate) fn run_monitor(spec: &LaunchSpec, filter: &SeccompFilter, session: &OwnedFd) -> i32 {
    // A name for process lists; nothing depends on it.
    let _ = nix::sys::prctl::set_name(c"argosy-entry");
    crash_point!("entry.begun");
    if let Err(reason) = serve(spec, filter, session) {
        refuse(session, reason);
    }
    kill_descendants();
    0
}

fn serve(spec: &LaunchSpec, filter: &SeccompFilter, session: &OwnedFd) -> Result<(), ExecuteError> {
    let words = |what: &str, errno: Errno| format!("cannot {what}: {}", errno.desc());
    // Above all the channel: the supervisor must see init's end while an exec command runs.
    close_all_but(Some(session.as_fd()))
        .map_err(|errno| words("close what init has open", errno))?;
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|errno| words("adopt the command's orphans", errno))?;
    let mut request: ExecRequest = match receive_packet(session, WaitMode::Block) {
        Ok(ReceiveResult::Message(request)) => request,
        Ok(ReceiveResult::Nothing | ReceiveResult::Closed) => return Ok(()),
        Err(error) => return Err(format!("the request is invalid: {error}")),
    };
    request.look_up_user()?;
    let spec = request.apply_to(spec).map_err(|error| error.to_string())?;
    let command = PreparedCommand::prepare(&spec, filter);
    let streams = StreamPair::make(&request, spec.user.as_ref())?;
    let (report, its_report) = packet_pair().map_err(|errno| words("make a channel", errno))?;
    let made = sys::clone_process(0, None, || {
        let reported = match execute(&request.work, &command, &streams.inner, &its_report) {
            Ok(reported) => reported,
            Err(reason) => MonitorMessage::Refused {
                reason: limit_text(reason),
            },
        };
        // If the monitor has exited, the session is closed as well.
        let _ = send_packet(&its_report, &reported, WaitMode::Return);
        0
    });
    let made = made.map_err(|errno| words("make a process", errno))?;
    crash_point!("entry.command-made");
    let monitor = ExecMonitor {
        session,
        command: made.pid,
        report: Some(report),
        streams: streams.outer,
        is_probe: matches!(request.work, ExecAction::Probe(_)),
    };
    // The streams must close with the command, and its report with its execution: neither may stay
    // open here.
    drop((streams.inner, its_report));
    monitor.run();
    Ok(())
}

/// Runs in the new process. Returns only if the command cannot be executed.
fn execute(
    work: &ExecAction,
    command: &PreparedCommand<'_>,
    streams: &CommandStreams,
    report: &OwnedFd,
) -> Result<MonitorMessage, ExecuteError> {
    let words = |what: &str, errno: Errno| format!("cannot {what}: {}", errno.desc());
    nix::unistd::setsid().map_err(|errno| words("make a session", errno))?;
    if let CommandStreams::Terminal(terminal) = streams {
        rustix::process::ioctl_tiocsctty(terminal)
            .map_err(|errno| format!("cannot take the terminal: {errno}"))?;
    }
    for (target, source) in (0..).zip(streams.descriptors()) {
        sys::replace_descriptor(source, target)
            .map_err(|errno| words("set up standard streams", errno))?;
    }
    command.confine(Some(report.as_fd()))?;
    match work {
        ExecAction::Command(_) => Err(command.execute()),
        ExecAction::Probe(probe) => Ok(MonitorMessage::Probed(probe.run())),
    }
}

/// The command's ends of its streams.
enum CommandStreams {
    Pipes([OwnedFd; 3]),
    Terminal(OwnedFd),
}

impl CommandStreams {
    fn descriptors(&self) -> [&OwnedFd; 3] {
        match self {
            Self::Pipes([stdin, stdout, stderr]) => [stdin, stdout, stderr],
            Self::Terminal(terminal) => [terminal; 3],
        }
    }
}

/// Both ends of a command's streams.
struct StreamPair {
    inner: CommandStreams,
    /// In the order that the agent expects.
    outer: Vec<OwnedFd>,
}

impl StreamPair {
    /// The command's ends belong to its user, who may then reopen them through `/dev/stdout` or the
    /// terminal's path.
    fn make(request: &ExecRequest, user: Option<&ContainerUser>) -> Result<Self, ExecuteError> {
        let pair = match request.terminal {
            Some(size) => {
                let (master, terminal) = terminal::open_pair(size)
                    .map_err(|error| format!("cannot make a terminal: {error}"))?;
                Self {
                    inner: CommandStreams::Terminal(terminal),
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
                    inner: CommandStreams::Pipes([stdin, stdout, stderr]),
                    outer: vec![writer, out_reader, error_reader],
                }
            }
        };
        if let Some(user) = user {
            let uid = Some(Uid::from_raw(user.uid));
            // The file system sets a terminal's group.
            let gid = request.terminal.is_none().then(|| Gid::from_raw(user.gid));
            for stream in pair.inner.descriptors() {
                nix::unistd::fchown(stream, uid, gid).map_err(|errno| {
                    format!("cannot give its user the streams: {}", errno.desc())
                })?;
            }
        }
        Ok(pair)
    }
}

/// The monitor while the exec command runs.
struct ExecMonitor<'a> {
    session: &'a OwnedFd,
    command: i32,
    /// The channel on which the command's process reports errors before the execution, which closes
    /// it. `None` after that.
    report: Option<OwnedFd>,
    /// The agent's ends, until they are sent.
    streams: Vec<OwnedFd>,
    is_probe: bool,
}

impl ExecMonitor<'_> {
    /// Returns when the command has ended or the client has disconnected.
    fn run(mut self) {
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
                    return self.report_end(ended.status);
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
            if !self.read_report() {
                return;
            }
            match receive_packet(self.session, WaitMode::Return) {
                Ok(ReceiveResult::Message(MonitorRequest::Signal(signal))) => {
                    send_signal_to_group(self.command, signal);
                }
                Ok(ReceiveResult::Nothing) => {}
                Ok(ReceiveResult::Closed) | Err(_) => return,
            }
        }
    }

    /// Reads the report of the command's process. Returns false if the command is not executed.
    fn read_report(&mut self) -> bool {
        let Some(report) = &self.report else {
            return true;
        };
        match receive_packet::<MonitorMessage>(report, WaitMode::Return) {
            Ok(ReceiveResult::Nothing) => true,
            Ok(ReceiveResult::Message(reported)) => {
                // A client that has disconnected needs no answer.
                let _ = send_packet(self.session, &reported, WaitMode::Return);
                false
            }
            // A prober that closes it without a message was killed, as its status shows.
            Ok(ReceiveResult::Closed) | Err(_) => {
                self.report = None;
                let streams = std::mem::take(&mut self.streams);
                let descriptors: Vec<_> = streams.iter().map(AsFd::as_fd).collect();
                // A disconnected client is detected by the end of the session.
                let reported = self.is_probe
                    || send_packet_with(
                        self.session,
                        &MonitorMessage::Started,
                        &descriptors,
                        WaitMode::Return,
                    )
                    .is_ok();
                crash_point!("entry.start-sent");
                reported
            }
        }
    }

    /// Messages that were sent before the end are handled first.
    fn report_end(&mut self, status: i32) {
        if !self.read_report() {
            return;
        }
        if self.is_probe {
            let reason = "the probe was killed before it had an answer";
            return refuse(self.session, reason.to_owned());
        }
        // A client that has disconnected needs no answer.
        let _ = send_packet(
            self.session,
            &MonitorMessage::Ended { status },
            WaitMode::Return,
        );
    }
}
