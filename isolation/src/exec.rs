//! Entering a running container: one more command beside its own, in the same confinement.
//!
//! ```text
//! agent ──order, with a session──▶ supervisor ──▶ init ──fork──▶ keeper ──fork──▶ entered command
//!   └──────────────── session: request, streams, end ─────────────┘
//! ```
//! The request goes to the supervisor, not to the launcher: it is there as long as the container is, whatever agent or
//! launcher is alive, and an agent that adopts a container gets with it all that it takes to enter. It passes the session
//! on to init, which holds the launch request in its memory, so no file says how a container is confined. Init forks: a
//! copy of it is in the container's namespaces, control group and Landlock domain from its first moment on. Nothing that
//! is less confined than init ever joins a container, so there is nothing to catch on its way in: until the command is
//! executed all is done by processes that are not dumpable, have nothing of the host's open, and whose memory belongs to
//! the host's users.
//!
//! A session ends with its client: when the agent closes the session, dies, or lets it go, the keeper kills the command
//! with all that it started. The same happens when the command ends by itself. When the container ends, both are killed
//! with it: they are in its pid namespace and its group.

mod monitor;
mod probe;
mod terminal;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::image::{self, Wanted};
use crate::messages::{
    Order, PACKET_LIMIT_BYTES, Received, Wait, packet_pair, receive_packet_with, send_packet,
    send_packet_with,
};
use crate::spec::{Program, Spec, SpecError, User};
use crate::state_dir::Outcome;
pub(crate) use monitor::{keep, refuse};
pub use probe::{Probe, ProbeKind, Scheme, Verdict};
pub use terminal::{USUAL_SIZE, WindowSize};
pub(crate) use terminal::{make as make_terminal, peer as terminal_peer};

/// What an entered process is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Execute a program of the container's.
    Command(Program),
    /// See whether something answers in its network; executes nothing.
    Probe(Probe),
}

/// A request to enter a container. As JSON at most 128 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryRequest {
    /// What is to be done there.
    pub work: Work,
    /// Variables on top of the container's own; one of the same name replaces it.
    pub environment: Vec<(String, String)>,
    /// As whom, in the numbers of the container's command; `None`: as whom that runs.
    pub user: Option<User>,
    /// As whom, by the names of the container, in place of `user`: `USER` or `USER:GROUP`, each a name in its
    /// `/etc/passwd` and `/etc/group` or a number.
    pub user_name: Option<String>,
    /// Its working directory, as seen inside; `None`: that of the container's command.
    pub directory: Option<PathBuf>,
    /// Give it a terminal of this size instead of three pipes.
    pub terminal: Option<WindowSize>,
}

impl EntryRequest {
    /// As the container's own command would be: its user, environment and working directory, three pipes.
    #[must_use]
    pub fn new(work: Work) -> Self {
        Self {
            work,
            environment: Vec::new(),
            user: None,
            user_name: None,
            directory: None,
            terminal: None,
        }
    }

    /// Says by number who the user is that was named, by what the root that this process is in says of its users.
    fn look_up_user(&mut self) -> Result<(), String> {
        let Some(name) = self.user_name.take() else {
            return Ok(());
        };
        let wanted = Wanted::parse(&name).filter(|_| self.user.is_none());
        let wanted = wanted.ok_or_else(|| {
            let remedy = "give USER or USER:GROUP, each a name or a number, and no other user";
            SpecError::new("user_name", &name, remedy).to_string()
        })?;
        let root = File::open("/").map_err(|error| format!("cannot open the root: {error}"))?;
        self.user = Some(image::user(root.as_fd(), &wanted)?);
        Ok(())
    }

    /// The launch request of the same container with what is asked for here: one set of rules judges both.
    ///
    /// # Errors
    /// The first field that cannot be right.
    fn applied_to(&self, spec: &Spec) -> Result<Spec, SpecError> {
        let mut applied = spec.clone();
        match &self.work {
            Work::Command(program) => applied.program = program.clone(),
            Work::Probe(probe) => probe.check()?,
        }
        let given = |name: &String| self.environment.iter().any(|(other, _)| other == name);
        applied.environment.retain(|(name, _)| !given(name));
        applied.environment.extend(self.environment.iter().cloned());
        if self.user.is_some() {
            applied.user.clone_from(&self.user);
        }
        if self.directory.is_some() {
            applied.working_dir.clone_from(&self.directory);
        }
        applied.check()?;
        Ok(applied)
    }
}

/// What the keeper of an entered command tells over its session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Told {
    /// The command has been executed; its streams come with this.
    Started,
    /// Nothing was executed: in words.
    Refused { reason: String },
    /// The command has ended, with the status as `wait(2)` encodes it.
    Ended { status: i32 },
    /// What a probe found.
    Probed(Verdict),
}

/// What an agent asks of the keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wish {
    /// Send a signal to the command's process group.
    Signal(i32),
}

/// The agent's ends of an entered command's streams.
#[derive(Debug)]
pub enum Streams {
    /// Three pipes.
    Pipes {
        /// To be written; closing it is the command's end of file.
        stdin: OwnedFd,
        /// To be read until its end.
        stdout: OwnedFd,
        /// To be read until its end.
        stderr: OwnedFd,
    },
    /// The master of the command's terminal: read fails with EIO once nobody has the other side open; closing it hangs
    /// up. [`WindowSize::set`] tells of a new size.
    Terminal(OwnedFd),
}

/// What a session says.
#[derive(Debug)]
pub enum EntryNotice {
    /// The command has been executed.
    Started(Streams),
    /// Nothing was executed, and why not. The last notice.
    Refused {
        /// In words.
        reason: String,
    },
    /// The command has ended. The last notice; what else it started is killed now.
    Ended(Outcome),
    /// What a probe found. The last notice, and its only one.
    Probed(Verdict),
}

/// Why a container could not be entered, or what became of a session is not known.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The request cannot be right.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The supervisor takes no order, or the keeper no wish: it is gone, or has too many unread.
    #[error(
        "cannot ask the container to let a command in: it has ended, or has too many requests unread"
    )]
    Talk {
        /// Why.
        source: io::Error,
    },
    /// The session broke off before the command's end was told.
    #[error("the entered command's end is not known: it was killed, usually with its container")]
    Lost,
    /// What came over the session is nothing that a keeper says.
    #[error("the keeper of an entered command says what makes no sense: {what}")]
    Garbled {
        /// What came.
        what: String,
    },
    /// The call's time has passed.
    #[error("the entered command has said nothing within {waited_ms} ms")]
    Late {
        /// How long was waited, in milliseconds.
        waited_ms: u128,
    },
}

/// The agent's hold on one entered command. Dropping it ends the command, with all that it started.
#[derive(Debug)]
pub struct Session {
    socket: OwnedFd,
    over: bool,
}

impl Session {
    /// Sends the request over a new session, whose other end goes to the supervisor behind `connection`.
    pub(crate) fn open(
        connection: BorrowedFd<'_>,
        request: &EntryRequest,
    ) -> Result<Self, EntryError> {
        let talk = |source| EntryError::Talk { source };
        let body = serde_json::to_vec(request).map_err(|error| talk(error.into()))?;
        if body.len() > PACKET_LIMIT_BYTES {
            let value = format!("{} bytes", body.len());
            let remedy = "arguments and environment together must stay below 128 KiB as JSON";
            return Err(SpecError::new("environment", &value, remedy).into());
        }
        let (ours, theirs) = packet_pair().map_err(|errno| talk(errno.into()))?;
        // It waits in the session until the keeper reads it, so that nobody else has to hold it.
        send_packet(&ours, request, Wait::Return).map_err(talk)?;
        let given = [theirs.as_fd()];
        send_packet_with(connection, &Order::Enter, &given, Wait::Return).map_err(talk)?;
        Ok(Self {
            socket: ours,
            over: false,
        })
    }

    /// The next notice, or `None` if there is none now, or none any more. Call it when the descriptor is readable.
    ///
    /// # Errors
    /// If the session broke off, or what it says makes no sense: then drop it.
    pub fn notice(&mut self) -> Result<Option<EntryNotice>, EntryError> {
        if self.over {
            return Ok(None);
        }
        let (told, descriptors) = match receive_packet_with(&self.socket, Wait::Return) {
            Ok(Received::Message(message)) => message,
            Ok(Received::Nothing) => return Ok(None),
            Ok(Received::Closed) => return Err(EntryError::Lost),
            Err(error) => {
                let what = error.to_string();
                return Err(EntryError::Garbled { what });
            }
        };
        self.over = told != Told::Started;
        Ok(Some(match told {
            Told::Started => EntryNotice::Started(streams(descriptors)?),
            Told::Refused { reason } => EntryNotice::Refused { reason },
            Told::Ended { status } => EntryNotice::Ended(Outcome::of_status(status)),
            Told::Probed(verdict) => EntryNotice::Probed(verdict),
        }))
    }

    /// Blocks until the next notice comes.
    ///
    /// # Errors
    /// As [`Session::notice`], and [`EntryError::Late`] when the patience (a span of time) is over.
    pub fn wait(&mut self, patience: Duration) -> Result<EntryNotice, EntryError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(notice) = self.notice()? {
                return Ok(notice);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.over {
                let waited_ms = patience.as_millis();
                return Err(EntryError::Late { waited_ms });
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut watched = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut watched, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => {
                    let source = errno.into();
                    return Err(EntryError::Talk { source });
                }
            }
        }
    }

    /// Sends a signal to the command's process group; one that has ended needs none.
    ///
    /// # Errors
    /// If the keeper takes no more wishes for now.
    pub fn signal(&self, signal: i32) -> Result<(), EntryError> {
        match send_packet(&self.socket, &Wish::Signal(signal), Wait::Return) {
            Ok(()) => Ok(()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => {
                Ok(())
            }
            Err(source) => Err(EntryError::Talk { source }),
        }
    }
}

/// Readable when [`Session::notice`] has something to say.
impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The same for runtimes that register raw descriptors. It stays the session's own.
impl AsRawFd for Session {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// They come from inside a container: only what the kernel itself moves bytes through is taken.
fn streams(descriptors: Vec<OwnedFd>) -> Result<Streams, EntryError> {
    let count = descriptors.len();
    let are_pipes = descriptors.iter().all(|each| is_pipe(each.as_fd()));
    let mut each = descriptors.into_iter();
    match (each.next(), each.next(), each.next()) {
        (Some(stdin), Some(stdout), Some(stderr)) if are_pipes => Ok(Streams::Pipes {
            stdin,
            stdout,
            stderr,
        }),
        (Some(master), None, None) if terminal::is_master(master.as_fd()) => {
            Ok(Streams::Terminal(master))
        }
        _ => Err(EntryError::Garbled {
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

    use super::*;
    use crate::spec::ContainerId;

    fn spec() -> Spec {
        let (place, program) = (Path::new("/c"), Program::Shell("serve".into()));
        let mut spec = Spec::new(ContainerId::new("c").unwrap(), place, place, program);
        spec.cgroup = Some("/sys/fs/cgroup/c".into());
        spec.environment = vec![("A".into(), "1".into()), ("B".into(), "2".into())];
        spec
    }

    fn request(line: &str) -> EntryRequest {
        EntryRequest::new(Work::Command(Program::Shell(line.into())))
    }

    #[test]
    fn what_is_not_asked_for_is_as_the_containers_own_command_has_it() {
        let applied = request("ls").applied_to(&spec()).unwrap();
        let mut expected = spec();
        expected.program = Program::Shell("ls".into());
        assert_eq!(applied, expected);
    }

    #[test]
    fn a_variable_that_is_given_replaces_the_containers() {
        let mut request = request("ls");
        request.environment = vec![("A".into(), "3".into()), ("C".into(), "4".into())];
        let environment = request.applied_to(&spec()).unwrap().environment;
        let expected = [("B", "2"), ("A", "3"), ("C", "4")];
        assert_eq!(
            environment,
            expected.map(|(name, value)| (name.into(), value.into()))
        );
    }

    #[test]
    fn what_a_launch_would_be_refused_for_an_entry_is_too() {
        assert!(request(" ").applied_to(&spec()).is_err());
        let mut nameless = request("ls");
        nameless.environment = vec![(String::new(), "x".into())];
        assert!(nameless.applied_to(&spec()).is_err());
        let mut elsewhere = request("ls");
        elsewhere.directory = Some("/a\0b".into());
        let refused = elsewhere.applied_to(&spec()).unwrap_err().to_string();
        assert!(refused.contains("NUL"), "{refused}");
        let mut plain = spec();
        plain.isolation = crate::Isolation::UserNamespaces;
        let mut as_other = request("ls");
        as_other.user = Some(User {
            uid: 7,
            gid: 7,
            groups: Vec::new(),
        });
        assert!(as_other.applied_to(&plain).is_err());
    }

    #[test]
    fn only_pipes_and_terminals_are_taken_for_streams() {
        let (session, keeper) = packet_pair().unwrap();
        let mut session = Session {
            socket: session,
            over: false,
        };
        let null = std::fs::File::open("/dev/null").unwrap();
        let given = [null.as_fd()];
        send_packet_with(&keeper, &Told::Started, &given, Wait::Return).unwrap();
        let refused = session.notice().unwrap_err().to_string();
        assert!(refused.contains("neither three pipes"), "{refused}");
    }

    #[test]
    fn an_end_is_the_last_notice_and_a_break_before_it_is_an_error() {
        let (socket, keeper) = packet_pair().unwrap();
        let mut session = Session {
            socket,
            over: false,
        };
        assert!(session.notice().unwrap().is_none());
        send_packet(&keeper, &Told::Ended { status: 7 << 8 }, Wait::Return).unwrap();
        drop(keeper);
        assert!(matches!(
            session.notice(),
            Ok(Some(EntryNotice::Ended(Outcome::Exited(7))))
        ));
        assert!(session.notice().unwrap().is_none());
        let (socket, keeper) = packet_pair().unwrap();
        drop(keeper);
        let mut session = Session {
            socket,
            over: false,
        };
        assert!(matches!(session.notice(), Err(EntryError::Lost)));
    }
}
