//! The spawner: executes programs for a process whose seccomp filter its children must not inherit.
//!
//! ```text
//! broker, filtered ──socket──▶ spawner ──exec──▶ launcher, content service, nft, mkfs.ext4, CNI plugins
//! ```
//! Every program that a process executes inherits its filter, and containers could then be denied
//! what they may do now. The spawner is a copy of the broker from before the filter. It executes
//! only the programs in its start configuration, and exits with the broker. A process without a
//! spawner executes programs itself (`child`).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    ControlMessage, MsgFlags, Shutdown, sendmsg, setsockopt, shutdown, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use rustix::net::RecvFlags;
use rustix::process::{Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::processes::fork::{ForkedChild, fork};
use crate::processes::packets::{self, ReceiveResult, WaitMode, packet_pair};
use crate::processes::process::has_ended;
use crate::sys;

/// The name of its process.
const NAME: &std::ffi::CStr = c"argosy-spawner";
/// The maximum length of an order, in bytes.
const REQUEST_LIMIT_BYTES: usize = 64 * 1024;
/// The maximum number of concurrent programs. Further ones are refused.
const RUNNING: usize = 256;
/// The descriptors of an order: the answer socket, the network namespace, and three standard
/// streams.
const DESCRIPTORS: usize = 5;
/// The time in which the end of a program must be reported.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// The timeout of an order: executing a program takes milliseconds, but a stopped spawner does not
/// answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time in which it exits once its owner ends it, unless it is stopped.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// The spawner of this process, set before its filter is installed.
static SPAWNER: OnceLock<OwnedFd> = OnceLock::new();

/// The programs that a spawner executes.
#[derive(Debug, Clone, Default)]
pub struct AllowedPrograms {
    /// Programs by exactly these names.
    pub files: Vec<PathBuf>,
    /// All programs in these directories.
    pub directories: Vec<PathBuf>,
}

impl AllowedPrograms {
    fn contains(&self, program: &OsStr) -> bool {
        let program = Path::new(program);
        let is_plain = !program.components().any(|part| part.as_os_str() == "..");
        let directory = program.parent().filter(|_| is_plain);
        self.files.iter().any(|file| file == program)
            || directory
                .is_some_and(|directory| self.directories.iter().any(|one| one == directory))
    }
}

/// A program to execute, with its parameters.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProgramCall {
    program: OsString,
    arguments: Vec<OsString>,
    /// Its name in process lists, if not the program's.
    name: Option<String>,
    environment: Vec<(OsString, OsString)>,
    has_our_environment: bool,
    /// Whether it runs at `/` and in a separate process group.
    is_apart: bool,
}

/// Standard input, output and error. Without the last, it writes to this process's standard error.
pub struct StandardStreams {
    pub input: OwnedFd,
    pub output: OwnedFd,
    pub error: Option<OwnedFd>,
}

/// A program that a spawner has executed.
#[derive(Debug)]
pub struct SpawnedProgram {
    pub pid: u32,
    handle: OwnedFd,
    /// The socket that reports its end.
    exit_socket: OwnedFd,
}

#[derive(Debug, Serialize, Deserialize)]
enum SpawnerReply {
    /// Comes with a pidfd of the process.
    Started {
        pid: u32,
    },
    /// A system error, and its text.
    Failed {
        errno: Option<i32>,
        why: String,
    },
    Ended {
        status: i32,
    },
}

impl ProgramCall {
    /// Takes program, arguments and environment of `command`, but not its streams and directory.
    pub fn of(command: &Command) -> Self {
        let environment = command.get_envs();
        let set = environment.filter_map(|(name, value)| Some((name.into(), value?.into())));
        Self {
            program: command.get_program().to_owned(),
            arguments: command.get_args().map(OsStr::to_owned).collect(),
            name: None,
            environment: set.collect(),
            has_our_environment: true,
            is_apart: false,
        }
    }

    pub fn without_our_environment(mut self) -> Self {
        self.has_our_environment = false;
        self
    }

    pub fn named(mut self, name: Option<&str>) -> Self {
        self.name = name.map(str::to_owned);
        self
    }

    /// Drops the variables that the command sets as well.
    pub fn without_environment(mut self) -> Self {
        self.environment.clear();
        self
    }

    /// Adds these variables of this process's environment, if they exist.
    pub fn with_own_environment(mut self, names: &[&str]) -> Self {
        let ours = names
            .iter()
            .filter_map(|name| Some(((*name).into(), std::env::var_os(name)?)));
        self.environment.extend(ours);
        self
    }

    /// Detaches the program from this process, which it outlives: from its environment, directory
    /// and process group.
    pub fn detached(mut self) -> Self {
        self.is_apart = true;
        self.without_our_environment()
    }

    pub fn command(&self, streams: StandardStreams) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(name) = &self.name {
            command.arg0(name);
        }
        if !self.has_our_environment {
            command.env_clear();
        }
        if self.is_apart {
            command.current_dir("/").process_group(0);
        }
        command.args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(streams.input).stdout(streams.output);
        command.stderr(streams.error.map_or_else(Stdio::inherit, Stdio::from));
        command
    }
}

/// The spawner of this process, while it runs.
#[derive(Debug)]
pub struct Spawner {
    /// Hangs up when the spawner has exited.
    socket: OwnedFd,
    process: ForkedChild,
    is_ending: AtomicBool,
}

impl Spawner {
    /// Waits until it has exited. Returns whether its owner has ended it.
    pub fn wait(&self) -> bool {
        // No data is ever sent there.
        while matches!(
            packets::receive_packet::<SpawnerReply>(&self.socket, WaitMode::Block),
            Ok(ReceiveResult::Nothing)
        ) {}
        self.is_ending.load(Ordering::SeqCst)
    }

    /// Ends it, and waits until it has exited, but not for a stopped one: that exits when it is
    /// continued. Programs that it has executed continue.
    pub fn end(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
        // Fails only if it has exited.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        let _ = has_ended(&self.process.handle, END_TIMEOUT);
    }
}

/// Creates the spawner of this process, which must have no threads yet. `kept` are descriptors that
/// program names refer to.
///
/// # Errors
/// If the host refuses it, or this process has a spawner already.
pub fn start(programs: AllowedPrograms, kept: &[BorrowedFd<'_>]) -> io::Result<Spawner> {
    let (ours, theirs) = packet_pair()?;
    let mut all = vec![theirs.as_fd()];
    all.extend_from_slice(kept);
    let process = fork(NAME, &all, || {
        serve(theirs.as_fd(), &programs);
        0
    })?;
    let socket = ours.try_clone()?;
    // A stopped spawner accepts no more orders once its socket is full.
    let limit = TimeVal::seconds(RESPONSE_TIMEOUT.as_secs().cast_signed());
    setsockopt(&ours, sockopt::SendTimeout, &limit)?;
    SPAWNER
        .set(ours)
        .map_err(|_| io::Error::other("this process has a spawner already"))?;
    Ok(Spawner {
        socket,
        process,
        is_ending: AtomicBool::new(false),
    })
}

/// Executes a program by the spawner, in the calling thread's network namespace; `None` if this
/// process has no spawner.
///
/// # Errors
/// The reason why it cannot be executed, as if this process had tried.
pub fn spawn(
    execution: &ProgramCall,
    streams: &StandardStreams,
) -> io::Result<Option<SpawnedProgram>> {
    match SPAWNER.get() {
        Some(spawner) => request(spawner.as_fd(), execution, streams, RESPONSE_TIMEOUT).map(Some),
        None => Ok(None),
    }
}

fn request(
    spawner: BorrowedFd<'_>,
    execution: &ProgramCall,
    streams: &StandardStreams,
    limit: Duration,
) -> io::Result<SpawnedProgram> {
    let bytes = serde_json::to_vec(execution)?;
    if bytes.len() > REQUEST_LIMIT_BYTES {
        let why = "its arguments and environment are longer than 64 KiB";
        return Err(io::Error::other(why));
    }
    let (ours, theirs) = packet_pair()?;
    let namespace = File::open("/proc/thread-self/ns/net")?;
    let standard = io::stderr();
    let error = streams.error.as_ref().map(AsFd::as_fd);
    let descriptors = [
        theirs.as_raw_fd(),
        namespace.as_raw_fd(),
        streams.input.as_raw_fd(),
        streams.output.as_raw_fd(),
        error.unwrap_or_else(|| standard.as_fd()).as_raw_fd(),
    ];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let parts = [IoSlice::new(&bytes)];
    sendmsg::<()>(
        spawner.as_raw_fd(),
        &parts,
        &rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map_err(|errno| match errno {
        Errno::EAGAIN => stopped_error(),
        errno => errno.into(),
    })?;
    // Otherwise its end would not be detected.
    drop(theirs);
    if !has_ended(&ours, limit)? {
        return Err(stopped_error());
    }
    match packets::receive_packet_with(&ours, WaitMode::Block)? {
        ReceiveResult::Message((SpawnerReply::Started { pid }, mut handles)) => {
            let handle = handles.pop();
            Ok(SpawnedProgram {
                pid,
                handle: handle.ok_or_else(|| io::Error::other("a process without a handle"))?,
                exit_socket: ours,
            })
        }
        ReceiveResult::Message((
            SpawnerReply::Failed {
                errno: Some(errno), ..
            },
            _,
        )) => Err(io::Error::from_raw_os_error(errno)),
        ReceiveResult::Message((SpawnerReply::Failed { why, .. }, _)) => Err(io::Error::other(why)),
        ReceiveResult::Message((SpawnerReply::Ended { .. }, _))
        | ReceiveResult::Nothing
        | ReceiveResult::Closed => Err(gone_error()),
    }
}

fn stopped_error() -> io::Error {
    io::Error::other("the spawner of this agent does not respond")
}

fn gone_error() -> io::Error {
    io::Error::other("the spawner of this agent has exited")
}

impl SpawnedProgram {
    /// Returns its exit status; `None` if it has not ended in time.
    ///
    /// # Errors
    /// If the spawner has exited or does not respond.
    pub fn wait(&self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        if !has_ended(&self.handle, limit)? {
            return Ok(None);
        }
        if !has_ended(&self.exit_socket, REPLY_TIMEOUT)? {
            return Err(stopped_error());
        }
        match packets::receive_packet(&self.exit_socket, WaitMode::Return)? {
            ReceiveResult::Message(SpawnerReply::Ended { status }) => {
                Ok(Some(ExitStatus::from_raw(status)))
            }
            ReceiveResult::Message(SpawnerReply::Started { .. } | SpawnerReply::Failed { .. })
            | ReceiveResult::Nothing
            | ReceiveResult::Closed => Err(gone_error()),
        }
    }

    pub fn kill(&self) {
        // It may have ended by now. The spawner reaps it whenever it ends.
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }
}

/// The main loop of the spawner: runs until its owner has exited.
fn serve(owner: BorrowedFd<'_>, programs: &AllowedPrograms) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let mut buffer = vec![0; REQUEST_LIMIT_BYTES];
    loop {
        let flags = RecvFlags::empty();
        let received = sys::receive_with_descriptors::<DESCRIPTORS>(owner, &mut buffer, flags);
        let (length, descriptors) = match received {
            Ok((0, _)) => return,
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // Its owner has exited, or this process has no descriptor left: then no program can be
            // executed either.
            Err(_) => return,
        };
        let Ok(descriptors) = <[OwnedFd; DESCRIPTORS]>::try_from(descriptors) else {
            return;
        };
        let [answers, namespace, input, output, error] = descriptors;
        // The requester gave up while this process was stopped: the program would have no owner.
        if has_ended(&answers, Duration::ZERO).unwrap_or(false) {
            continue;
        }
        let refuse = |why: String| {
            // The requester may have exited.
            let _ = send_reply(&answers, &SpawnerReply::Failed { errno: None, why });
        };
        let Ok(execution) = serde_json::from_slice::<ProgramCall>(&buffer[..length]) else {
            refuse("an order is invalid".to_owned());
            continue;
        };
        if !programs.contains(&execution.program) {
            let program = execution.program.to_string_lossy().into_owned();
            refuse(format!(
                "{program} is not a program that an agent may execute"
            ));
            continue;
        }
        if COUNT.fetch_add(1, Ordering::SeqCst) >= RUNNING {
            COUNT.fetch_sub(1, Ordering::SeqCst);
            refuse(format!("{RUNNING} programs of this agent run already"));
            continue;
        }
        let streams = StandardStreams {
            input,
            output,
            error: Some(error),
        };
        let thread = std::thread::Builder::new().name("spawner".to_owned());
        // One thread per program: it is in the program's network namespace, and waits for its end.
        let started = thread.spawn(move || {
            run(&execution, streams, &namespace, &answers);
            COUNT.fetch_sub(1, Ordering::SeqCst);
        });
        if started.is_err() {
            // Its sockets are closed with it, which the requester detects.
            COUNT.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn run(execution: &ProgramCall, streams: StandardStreams, namespace: &OwnedFd, answers: &OwnedFd) {
    let begun = setns(namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
    let begun = begun.and_then(|()| {
        let mut child = execution.command(streams).spawn()?;
        match sys::pidfd_open(child.id() as i32) {
            Ok(handle) => Ok((child, handle)),
            Err(errno) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(errno.into())
            }
        }
    });
    // The requester may have exited: the program continues, and is reaped.
    match begun {
        Ok((mut child, handle)) => {
            let started = SpawnerReply::Started { pid: child.id() };
            let _ =
                packets::send_packet_with(answers, &started, &[handle.as_fd()], WaitMode::Return);
            drop(handle);
            if let Ok(status) = child.wait() {
                let status = status.into_raw();
                let _ = send_reply(answers, &SpawnerReply::Ended { status });
            }
        }
        Err(error) => {
            let failed = SpawnerReply::Failed {
                errno: error.raw_os_error(),
                why: error.to_string(),
            };
            let _ = send_reply(answers, &failed);
        }
    }
}

fn send_reply(answers: &OwnedFd, answer: &SpawnerReply) -> io::Result<()> {
    packets::send_packet(answers, answer, WaitMode::Return)
}

#[cfg(test)]
mod tests;
