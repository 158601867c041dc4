//! Exec: running another command in a running container, with the same confinement.
//!
//! ```text
//! agent ──order, with a session──▶ supervisor ──▶ init ──fork──▶ monitor ──fork──▶ exec command
//!   └──────────────── session: request, streams, end ─────────────┘
//! ```
//! The request goes to the supervisor, not to the launcher. The supervisor lives as long as the
//! container, and an agent that adopts a container can exec in it without anything else. The
//! supervisor passes the session to init, which holds the launch request in its memory, so the
//! confinement is not read from a file. Init forks: the copy is in the container's namespaces,
//! cgroup and Landlock domain from the start. No process with less confinement than init ever joins
//! a container, so there is none to attack. Until the command is executed, all steps are done by
//! processes that are not dumpable, have no host descriptor open, and whose memory belongs to host
//! users.
//!
//! A session ends with its client: when the agent closes the session, drops it or exits, the
//! monitor kills the command with all its descendants. The same happens when the command ends. When
//! the container ends, both are killed with it, since they are in its pid namespace and its cgroup.

mod monitor;
mod probe;
mod terminal;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use argosy_host::packets::{
    PACKET_LIMIT_BYTES, ReceiveResult, WaitMode, packet_pair, receive_packet_with, send_packet,
    send_packet_with,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::rootfs::image;
use crate::runtime::messages::SupervisorRequest;
use crate::spec::{ContainerUser, LaunchSpec, Program, SpecError, UserSpec};
use crate::state_dir::CommandOutcome;
pub(crate) use monitor::{refuse, run_monitor};
#[cfg(feature = "fuzzing")]
pub(crate) use probe::evaluate_response;
pub use probe::{Probe, ProbeKind, ProbeResult, Scheme};
pub use terminal::{DEFAULT_SIZE, WindowSize};
pub(crate) use terminal::{open_pair as make_terminal, peer as terminal_peer};

/// The work of an exec process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecAction {
    /// Executes a program of the container.
    Command(Program),
    /// Probes a port in the container's network; executes nothing.
    Probe(Probe),
}

/// A request for an exec session. Its JSON form has at most 128 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    pub work: ExecAction,
    /// Variables added to the container's environment; a variable of the same name is replaced.
    pub environment: Vec<(String, String)>,
    /// The user, in the ids of the container's command; `None`: the command's user.
    pub user: Option<ContainerUser>,
    /// The user by name, in place of `user`: `USER` or `USER:GROUP`, each a name in the container's
    /// `/etc/passwd` and `/etc/group` or a number.
    pub user_name: Option<String>,
    /// The working directory inside the container; `None`: that of the container's command.
    pub directory: Option<PathBuf>,
    /// The size of the terminal to allocate; `None`: three pipes.
    pub terminal: Option<WindowSize>,
}

impl ExecRequest {
    /// Creates a request with the command's user, environment and working directory, and three
    /// pipes.
    #[must_use]
    pub fn new(work: ExecAction) -> Self {
        Self {
            work,
            environment: Vec::new(),
            user: None,
            user_name: None,
            directory: None,
            terminal: None,
        }
    }

    /// Resolves `user_name` to ids, using the accounts in the current root of this process.
    fn look_up_user(&mut self) -> Result<(), String> {
        let Some(name) = self.user_name.take() else {
            return Ok(());
        };
        let wanted = UserSpec::parse(&name).filter(|_| self.user.is_none());
        let wanted = wanted.ok_or_else(|| {
            let remedy = "give USER or USER:GROUP, each a name or a number, and no other user";
            SpecError::new("user_name", &name, remedy).to_string()
        })?;
        let root = File::open("/").map_err(|error| format!("cannot open the root: {error}"))?;
        self.user = Some(image::user(root.as_fd(), &wanted)?);
        Ok(())
    }

    /// Returns the container's launch request with the values of this request, so that one set of
    /// rules validates both.
    ///
    /// # Errors
    /// The first invalid field.
    fn apply_to(&self, spec: &LaunchSpec) -> Result<LaunchSpec, SpecError> {
        let mut applied = spec.clone();
        match &self.work {
            ExecAction::Command(program) => applied.program = program.clone(),
            ExecAction::Probe(probe) => probe.check()?,
        }
        let given = |name: &String| self.environment.iter().any(|(other, _)| other == name);
        applied.environment.retain(|(name, _)| !given(name));
        applied.environment.extend(self.environment.iter().cloned());
        if let Some(user) = &self.user {
            // The right to exec in the task is none to be another user of its host.
            let profile = spec.profile.as_ref();
            let is_of_host = profile.is_some_and(|profile| profile.view.has_mapped_owners());
            let own = spec.user.as_ref();
            if is_of_host && own.is_none_or(|own| !own.is_same(user)) {
                let remedy = "on host paths its users are those of the host: leave the user out";
                return Err(SpecError::new("user", &user.uid.to_string(), remedy));
            }
            applied.user = Some(user.clone());
        }
        if self.directory.is_some() {
            applied.working_dir.clone_from(&self.directory);
        }
        applied.check()?;
        Ok(applied)
    }
}

/// A message of the exec monitor over its session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MonitorMessage {
    /// The command is executed; its streams come with this message.
    Started,
    /// Nothing was executed, with the reason.
    Refused { reason: String },
    /// The command has ended, with the status as `wait(2)` encodes it.
    Ended { status: i32 },
    /// The result of a probe.
    Probed(ProbeResult),
}

/// A request of the agent to the monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MonitorRequest {
    /// Sends a signal to the command's process group.
    Signal(i32),
}

/// The agent's ends of an exec command's streams.
#[derive(Debug)]
pub enum ExecStreams {
    Pipes {
        /// Writable; closing it is the command's end of file.
        stdin: OwnedFd,
        /// Readable until end of file.
        stdout: OwnedFd,
        /// Readable until end of file.
        stderr: OwnedFd,
    },
    /// The master of the command's terminal. A read fails with EIO once no process has the slave
    /// open; closing it hangs up. [`WindowSize::set`] changes its size.
    Terminal(OwnedFd),
}

/// A notice of an exec session.
#[derive(Debug)]
pub enum ExecNotice {
    /// The command is executed.
    Started(ExecStreams),
    /// Nothing was executed. The last notice.
    Refused {
        /// The cause, as text.
        reason: String,
    },
    /// The command has ended. The last notice; the command's remaining descendants are being
    /// killed.
    Ended(CommandOutcome),
    /// The result of a probe. The only notice of its session.
    Probed(ProbeResult),
}

/// An error of an exec session, or of starting one.
#[derive(Debug, thiserror::Error)]
pub enum ExecSessionError {
    /// The request is invalid.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The supervisor does not accept the order, or the monitor the request: it has exited, or its
    /// queue is full.
    #[error("cannot exec in the container: it has ended, or its queue is full")]
    Socket { source: io::Error },
    /// The session was lost before the command's end was reported.
    #[error(
        "the exit status of the exec command is unknown: it was killed, usually with its container"
    )]
    Lost,
    /// The monitor sent an invalid message.
    #[error("invalid message from the exec monitor: {what}")]
    Malformed {
        /// The message.
        what: String,
    },
    /// The call timed out.
    #[error("no message from the exec monitor within {waited_ms} ms")]
    Timeout {
        /// The time waited, in milliseconds.
        waited_ms: u128,
    },
}

/// The agent's handle on one exec session. Dropping it kills the command with all its descendants.
#[derive(Debug)]
pub struct ExecSession {
    socket: OwnedFd,
    is_over: bool,
}

impl ExecSession {
    /// Sends the request over a new session and passes the session's other end to the supervisor
    /// behind `connection`.
    pub(crate) fn open(
        connection: BorrowedFd<'_>,
        request: &ExecRequest,
    ) -> Result<Self, ExecSessionError> {
        let talk = |source| ExecSessionError::Socket { source };
        let body = serde_json::to_vec(request).map_err(|error| talk(error.into()))?;
        if body.len() > PACKET_LIMIT_BYTES {
            let value = format!("{} bytes", body.len());
            let remedy = "arguments and environment together must stay below 128 KiB as JSON";
            return Err(SpecError::new("environment", &value, remedy).into());
        }
        let (ours, theirs) = packet_pair().map_err(|errno| talk(errno.into()))?;
        // The request waits in the session until the monitor reads it, so no other process needs to
        // hold it.
        send_packet(&ours, request, WaitMode::Return).map_err(talk)?;
        let given = [theirs.as_fd()];
        send_packet_with(
            connection,
            &SupervisorRequest::Exec,
            &given,
            WaitMode::Return,
        )
        .map_err(talk)?;
        Ok(Self {
            socket: ours,
            is_over: false,
        })
    }

    /// Returns the next notice, or `None` if there is none now or the session has ended. Call it
    /// when the descriptor is readable.
    ///
    /// # Errors
    /// If the session is lost or its message is invalid: drop it.
    pub fn notice(&mut self) -> Result<Option<ExecNotice>, ExecSessionError> {
        if self.is_over {
            return Ok(None);
        }
        let (reported, descriptors) = match receive_packet_with(&self.socket, WaitMode::Return) {
            Ok(ReceiveResult::Message(message)) => message,
            Ok(ReceiveResult::Nothing) => return Ok(None),
            Ok(ReceiveResult::Closed) => return Err(ExecSessionError::Lost),
            Err(error) => {
                let what = error.to_string();
                return Err(ExecSessionError::Malformed { what });
            }
        };
        self.is_over = reported != MonitorMessage::Started;
        Ok(Some(match reported {
            MonitorMessage::Started => ExecNotice::Started(streams(descriptors)?),
            MonitorMessage::Refused { reason } => ExecNotice::Refused { reason },
            MonitorMessage::Ended { status } => {
                ExecNotice::Ended(CommandOutcome::of_status(status))
            }
            MonitorMessage::Probed(result) => ExecNotice::Probed(result),
        }))
    }

    /// Blocks until the next notice.
    ///
    /// # Errors
    /// As [`ExecSession::notice`], and [`ExecSessionError::Timeout`] after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExecNotice, ExecSessionError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(notice) = self.notice()? {
                return Ok(notice);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.is_over {
                let waited_ms = limit.as_millis();
                return Err(ExecSessionError::Timeout { waited_ms });
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut watched = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut watched, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => {
                    let source = errno.into();
                    return Err(ExecSessionError::Socket { source });
                }
            }
        }
    }

    /// Sends a signal to the command's process group; has no effect if the command has ended.
    ///
    /// # Errors
    /// If the monitor's queue is full.
    pub fn signal(&self, signal: i32) -> Result<(), ExecSessionError> {
        match send_packet(
            &self.socket,
            &MonitorRequest::Signal(signal),
            WaitMode::Return,
        ) {
            Ok(()) => Ok(()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => {
                Ok(())
            }
            Err(source) => Err(ExecSessionError::Socket { source }),
        }
    }
}

/// Readable when [`ExecSession::notice`] has a notice.
impl AsFd for ExecSession {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The same for runtimes that register raw descriptors. The session keeps ownership.
impl AsRawFd for ExecSession {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// The descriptors come from inside a container: only pipes and terminals that the kernel serves
/// are accepted.
fn streams(descriptors: Vec<OwnedFd>) -> Result<ExecStreams, ExecSessionError> {
    let count = descriptors.len();
    let are_pipes = descriptors.iter().all(|each| is_pipe(each.as_fd()));
    let mut each = descriptors.into_iter();
    match (each.next(), each.next(), each.next()) {
        (Some(stdin), Some(stdout), Some(stderr)) if are_pipes => Ok(ExecStreams::Pipes {
            stdin,
            stdout,
            stderr,
        }),
        (Some(master), None, None) if terminal::is_master(master.as_fd()) => {
            Ok(ExecStreams::Terminal(master))
        }
        _ => Err(ExecSessionError::Malformed {
            what: format!("{count} descriptors that are neither three pipes nor a terminal"),
        }),
    }
}

fn is_pipe(file: BorrowedFd<'_>) -> bool {
    let found = rustix::fs::fstat(file);
    found.is_ok_and(|found| rustix::fs::FileType::from_raw_mode(found.st_mode).is_fifo())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use argosy_host::ContainerId;

    use super::*;

    fn spec() -> LaunchSpec {
        let (place, program) = (Path::new("/c"), Program::Shell("serve".into()));
        let mut spec = LaunchSpec::new(ContainerId::new("c").unwrap(), place, place, program);
        spec.cgroup = Some("/sys/fs/cgroup/c".into());
        spec.environment = vec![("A".into(), "1".into()), ("B".into(), "2".into())];
        spec
    }

    fn request(line: &str) -> ExecRequest {
        ExecRequest::new(ExecAction::Command(Program::Shell(line.into())))
    }

    #[test]
    fn unset_fields_default_to_those_of_the_main_command() {
        let applied = request("ls").apply_to(&spec()).unwrap();
        let mut expected = spec();
        expected.program = Program::Shell("ls".into());
        assert_eq!(applied, expected);
    }

    #[test]
    fn a_variable_of_the_request_overrides_that_of_the_container() {
        let mut request = request("ls");
        request.environment = vec![("A".into(), "3".into()), ("C".into(), "4".into())];
        let environment = request.apply_to(&spec()).unwrap().environment;
        let expected = [("B", "2"), ("A", "3"), ("C", "4")];
        assert_eq!(
            environment,
            expected.map(|(name, value)| (name.into(), value.into()))
        );
    }

    #[test]
    fn exec_requests_have_the_rules_of_launch_requests() {
        assert!(request(" ").apply_to(&spec()).is_err());
        let mut nameless = request("ls");
        nameless.environment = vec![(String::new(), "x".into())];
        assert!(nameless.apply_to(&spec()).is_err());
        let mut elsewhere = request("ls");
        elsewhere.directory = Some("/a\0b".into());
        let refused = elsewhere.apply_to(&spec()).unwrap_err().to_string();
        assert!(refused.contains("NUL"), "{refused}");
        let mut plain = spec();
        plain.isolation = crate::Isolation::UserNamespaces;
        let mut as_other = request("ls");
        as_other.user = Some(ContainerUser {
            uid: 7,
            gid: 7,
            groups: Vec::new(),
        });
        assert!(as_other.apply_to(&plain).is_err());
    }

    #[test]
    fn only_pipes_and_terminals_are_accepted_as_streams() {
        let (session, exec_monitor) = packet_pair().unwrap();
        let mut session = ExecSession {
            socket: session,
            is_over: false,
        };
        let null = std::fs::File::open("/dev/null").unwrap();
        let given = [null.as_fd()];
        send_packet_with(
            &exec_monitor,
            &MonitorMessage::Started,
            &given,
            WaitMode::Return,
        )
        .unwrap();
        let refused = session.notice().unwrap_err().to_string();
        assert!(refused.contains("neither three pipes"), "{refused}");
    }

    #[test]
    fn the_exit_is_the_last_message_and_an_earlier_close_is_an_error() {
        let (socket, exec_monitor) = packet_pair().unwrap();
        let mut session = ExecSession {
            socket,
            is_over: false,
        };
        assert!(session.notice().unwrap().is_none());
        send_packet(
            &exec_monitor,
            &MonitorMessage::Ended { status: 7 << 8 },
            WaitMode::Return,
        )
        .unwrap();
        drop(exec_monitor);
        assert!(matches!(
            session.notice(),
            Ok(Some(ExecNotice::Ended(CommandOutcome::Exited(7))))
        ));
        assert!(session.notice().unwrap().is_none());
        let (socket, exec_monitor) = packet_pair().unwrap();
        drop(exec_monitor);
        let mut session = ExecSession {
            socket,
            is_over: false,
        };
        assert!(matches!(session.notice(), Err(ExecSessionError::Lost)));
    }
}
