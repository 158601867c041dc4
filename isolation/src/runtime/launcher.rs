//! The launcher: a small separate process that creates one supervisor per container, and one
//! process per archive to unpack.
//!
//! Copying a large agent for each start would take milliseconds; copying the launcher takes a tenth
//! of one. It reads requests in order and answers each with the id of the new process. The answers
//! show the agent that the launcher makes progress, and which process to kill if one hangs. Each
//! request brings the socket on which the new process answers.

mod answers;
mod descriptors;

use std::fs;
use std::io::{self, IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use argosy_host::child::{self, ChildProcess};
use argosy_host::packets::packet_pair;
use argosy_host::spawner::{ProgramCall, StandardStreams};
use argosy_host::{ContainerId, ProcessId, process, sys};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};
use rustix::net::RecvFlags;

use crate::cgroup::{Cgroup, CgroupError, CgroupTree};
use crate::confinement::device_filter::DeviceFilter;
use crate::confinement::drop_privileges::close_all_but;
use crate::confinement::port_filter::PortFilter;
use crate::confinement::seccomp::SeccompFilter;
use crate::rootfs::mounts::MountTemplate;
use crate::runtime::container::Container;
use crate::runtime::messages::LAUNCH_LIMIT_BYTES;
use crate::runtime::supervisor::{self, SupervisorContext};
use crate::spec::{LaunchSpec, SpecError};
use crate::unpack::{self, UnpackHandle, UnpackJob};
use answers::PendingLaunches;
use argosy_host::crash_point;
pub use descriptors::LaunchDescriptors;

/// The time for which the launcher may leave a request unread before it counts as stuck.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// The time in which the launcher must exit once the agent has closed the socket.
const END_LIMIT: Duration = Duration::from_secs(2);
/// The maximum number of descriptors of a request: the answer socket, the network namespace to
/// join, and the file with secrets.
const DESCRIPTORS: usize = 3;

/// The purpose of a request. Its number is the first byte, so that an unrelated peer on the socket
/// is detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestKind {
    Launch = 0x4152_4731,
    Unpack = 0x4152_5531,
}

impl RequestKind {
    fn of(number: u32) -> Option<Self> {
        let all = [Self::Launch, Self::Unpack];
        all.into_iter().find(|purpose| *purpose as u32 == number)
    }
}

/// One request, as read.
struct LauncherRequest {
    kind: RequestKind,
    body: Vec<u8>,
    /// The socket on which the new process answers.
    agent: OwnedFd,
    /// The descriptors for the new process.
    others: Vec<OwnedFd>,
}

impl Drop for LauncherRequest {
    /// Erases the request. Environments and names of secrets are for the container's own
    /// supervisor; later supervisors are copies of this process.
    fn drop(&mut self) {
        self.body.fill(0);
        // Otherwise the compiler may remove the write as unused.
        std::hint::black_box(&self.body);
    }
}

/// The agent's handle on its launcher. Dropping it ends the launcher within seconds, even if it is
/// stopped or hangs; supervisors and containers continue.
#[derive(Debug)]
pub struct Launcher {
    /// `None` once it is being dropped.
    process: Option<ChildProcess>,
    pid: u32,
    socket: UnixStream,
    broken: bool,
    pending: PendingLaunches,
}

/// An error that prevented a launch request from reaching a supervisor. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The request is invalid.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The launcher cannot be executed.
    #[error("cannot start the launcher {program}")]
    Spawn { program: String, source: io::Error },
    /// The launcher cannot be moved into its cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The launcher no longer accepts requests: spawn another one. If this happened while a request
    /// was being sent, its container's state directory shows whether it started.
    #[error("the launcher accepts no requests")]
    Gone { source: io::Error },
}

impl Launcher {
    /// Executes `command` as the launcher; its program must call [`run_from_fd`] before anything
    /// else. The launcher does not inherit the environment. With a tree it is put into the
    /// supervisors' group.
    ///
    /// Environment variables that are set on `command` are dropped as well: they would leak into
    /// memory of containers.
    ///
    /// # Errors
    /// If the program cannot be executed, or the launcher cannot be put into the group.
    pub fn spawn(command: &Command, tree: Option<&CgroupTree>) -> Result<Self, LaunchError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |source| LaunchError::Spawn {
            program: program.clone(),
            source,
        };
        let (socket, theirs) = UnixStream::pair().map_err(failed)?;
        socket.set_write_timeout(Some(SEND_LIMIT)).map_err(failed)?;
        let streams = StandardStreams {
            input: theirs.into(),
            output: child::null().map_err(failed)?,
            error: None,
        };
        // The name in process lists, whatever the program is called.
        let execution = ProgramCall::of(command).named(Some("argosy-launcher"));
        let execution = execution.detached().without_environment();
        let process = ChildProcess::execute(&execution, streams).map_err(failed)?;
        // From here on dropping `launcher` reaps the process.
        let launcher = Self {
            pid: process.id(),
            process: Some(process),
            socket,
            broken: false,
            pending: PendingLaunches::new(),
        };
        if let Some(tree) = tree {
            Cgroup::at(&tree.supervisors()).add(launcher.pid as i32)?;
        }
        Ok(launcher)
    }

    /// Returns the launcher's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it accepts requests, as far as is known. False once it has exited, or has left
    /// requests unanswered for 10 s: then spawn another one. The containers of those requests show
    /// whether they were started.
    pub fn is_responsive(&mut self) -> bool {
        self.read_answers();
        self.broken |= self.pending.are_overdue(SEND_LIMIT);
        !self.broken
    }

    /// Returns the live supervisors that it has created since the last call.
    pub fn supervisors(&mut self) -> Vec<(ContainerId, ProcessId)> {
        self.read_answers();
        self.pending.supervisors()
    }

    fn read_answers(&mut self) {
        let mut answers = [0; 64];
        loop {
            match recv(
                self.socket.as_raw_fd(),
                &mut answers,
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(0) => break self.broken = true,
                Ok(count) => self.pending.push(&answers[..count], self.pid),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(_) => break self.broken = true,
            }
        }
    }

    /// Sends a request. The container reports when it has started, or why it has not.
    ///
    /// May block while the launcher is busy, at most 10 s.
    ///
    /// # Errors
    /// If the request is invalid (nothing was started), or the launcher has exited.
    pub fn launch(&mut self, spec: &LaunchSpec) -> Result<Container, LaunchError> {
        self.launch_with(spec, LaunchDescriptors::default())
    }

    /// The same for a container in this network namespace, which then holds the namespace.
    ///
    /// # Errors
    /// As [`Launcher::launch`].
    pub fn launch_joined(
        &mut self,
        spec: &LaunchSpec,
        namespace: BorrowedFd<'_>,
    ) -> Result<Container, LaunchError> {
        self.launch_with(spec, LaunchDescriptors::joining(namespace))
    }

    /// The same with any descriptors.
    ///
    /// # Errors
    /// As [`Launcher::launch`].
    pub fn launch_with(
        &mut self,
        spec: &LaunchSpec,
        descriptors: LaunchDescriptors<'_>,
    ) -> Result<Container, LaunchError> {
        spec.check()?;
        descriptors.check(spec)?;
        let gone = |source| LaunchError::Gone { source };
        if self.broken {
            return Err(gone(io::Error::other("an earlier request broke off")));
        }
        let body = serde_json::to_vec(spec).map_err(|error| gone(error.into()))?;
        if body.len() > LAUNCH_LIMIT_BYTES {
            let value = format!("{} bytes", body.len());
            let remedy = "arguments and environment together must stay below 2 MiB as JSON";
            return Err(SpecError::new("environment", &value, remedy).into());
        }
        let (ours, theirs) = packet_pair().map_err(|errno| gone(errno.into()))?;
        let container = Some(spec.id.clone());
        let LaunchDescriptors { namespace, secrets } = descriptors;
        let kind = (RequestKind::Launch, container);
        self.request(kind, &body, &theirs, [namespace, secrets])?;
        crash_point!("agent.request-sent");
        Ok(Container::launched(spec, ours))
    }

    /// Unpacks `archive`, from its current position, into the directory `target`, in a process that
    /// has access to nothing else. The progress comes as reports.
    ///
    /// The target should be new: the caller renames it on success and removes it otherwise. May
    /// block while the launcher is busy, at most 10 s.
    ///
    /// # Errors
    /// If the launcher has exited. Nothing was started.
    pub fn unpack(
        &mut self,
        job: &UnpackJob,
        archive: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
    ) -> Result<UnpackHandle, LaunchError> {
        let gone = |source| LaunchError::Gone { source };
        if self.broken {
            return Err(gone(io::Error::other("an earlier request broke off")));
        }
        let body = serde_json::to_vec(job).map_err(|error| gone(error.into()))?;
        let (ours, theirs) = packet_pair().map_err(|errno| gone(errno.into()))?;
        let unpacking = UnpackHandle::start(ours, archive, target).map_err(gone)?;
        self.request((RequestKind::Unpack, None), &body, &theirs, [None, None])?;
        crash_point!("agent.unpacking-asked");
        Ok(unpacking)
    }

    fn request(
        &mut self,
        (purpose, container): (RequestKind, Option<ContainerId>),
        body: &[u8],
        connection: &OwnedFd,
        [namespace, secrets]: [Option<BorrowedFd<'_>>; DESCRIPTORS - 1],
    ) -> Result<(), LaunchError> {
        let descriptors = [Some(connection.as_fd()), namespace, secrets];
        self.read_answers();
        self.send(purpose, body, descriptors).map_err(|source| {
            self.broken = true;
            LaunchError::Gone { source }
        })?;
        self.pending.expect(container);
        Ok(())
    }

    fn send(
        &self,
        purpose: RequestKind,
        body: &[u8],
        descriptors: [Option<BorrowedFd<'_>>; DESCRIPTORS],
    ) -> io::Result<()> {
        let mut header = [0; 8];
        header[..4].copy_from_slice(&(purpose as u32).to_le_bytes());
        header[4..].copy_from_slice(&(body.len() as u32).to_le_bytes());
        let numbers = descriptors.into_iter().flatten();
        let numbers: Vec<_> = numbers.map(|each| each.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let mut sent = 0;
        while sent < header.len() + body.len() {
            let parts = [
                IoSlice::new(header.get(sent..).unwrap_or_default()),
                IoSlice::new(&body[sent.saturating_sub(header.len())..]),
            ];
            let rights = if sent == 0 { &rights[..] } else { &[] };
            let socket = self.socket.as_raw_fd();
            match sendmsg::<()>(socket, &parts, rights, MsgFlags::MSG_NOSIGNAL, None) {
                Ok(length) => sent += length,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // The launcher exits when it sees this, after the requests that it already has. Fails only
        // if it has exited.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let Some(mut process) = self.process.take() else {
            return;
        };
        // A launcher that accepts no requests does not exit by itself.
        if !self.broken && matches!(process.wait(END_LIMIT), Ok(Some(_))) {
            return;
        }
        process.kill();
    }
}

/// An error that prevents the launcher process from working.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// The process has threads, so it cannot be copied.
    #[error("the launcher must run before any thread is started; this process has {threads}")]
    Threads { threads: usize },
    /// Standard input is not the agent's socket.
    #[error(
        "the launcher is started by an agent only: its standard input must be the agent's socket"
    )]
    Socket { source: io::Error },
    /// The host refused an operation that every launcher needs.
    #[error("cannot prepare the launcher")]
    Prepare { source: io::Error },
    /// The socket carried data that is not a launch request.
    #[error("a launch request is invalid")]
    Garbled,
}

/// The main loop of the launcher process: serves the agent on standard input until the agent closes
/// the socket.
///
/// Call it from `main` before anything else; it needs a process without threads.
///
/// # Errors
/// If this process has threads, or the host refuses an operation that every launcher needs.
pub fn run_from_fd() -> Result<(), LauncherError> {
    let prepare = |source| LauncherError::Prepare { source };
    let threads = fs::read_dir("/proc/self/task").map_err(prepare)?.count();
    if threads != 1 {
        return Err(LauncherError::Threads { threads });
    }
    let socket = sys::take_standard_input().map_err(|errno| prepare(errno.into()))?;
    close_all_but(Some(socket.as_fd())).map_err(|errno| prepare(errno.into()))?;
    let mut socket = Some(UnixStream::from(socket));
    let null = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null");
    let mut host = SupervisorContext {
        boot_id: process::boot_id().map_err(prepare)?,
        null: null.map_err(prepare)?.into(),
        filter: SeccompFilter::new(),
        // Where the host refuses it, the other layers apply; the agent logs it.
        device_filter: DeviceFilter::load(&[]).ok(),
        port_filter: PortFilter::load().ok(),
        template: MountTemplate::make(),
    };
    sys::replace_descriptor(&host.null, 0).map_err(|errno| prepare(errno.into()))?;
    process::detect_features();
    match sys::join_new_session_keyring() {
        // Without this system call there are no keyrings, or none that a process started here can
        // request.
        Ok(()) | Err(Errno::ENOSYS | Errno::EPERM) => {}
        Err(errno) => return Err(prepare(errno.into())),
    }
    // A core dump of a supervisor would contain its container's secrets; containers have their own
    // limits.
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE).map_err(|errno| prepare(errno.into()))?;
    setrlimit(Resource::RLIMIT_CORE, 0, hard).map_err(|errno| prepare(errno.into()))?;
    // Ctrl-C and the stop signal of the agent's unit are not for the launcher or its supervisors:
    // the launcher exits with the socket.
    sys::reset_signals_and_ignore_children();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)
        .map_err(|errno| prepare(errno.into()))?;
    let _ = nix::sys::prctl::set_name(c"argosy-launcher");
    while let Some(mut request) = read_request(&mut socket)? {
        // The cause may have passed: little memory, or mounts that an operator has corrected.
        if request.kind == RequestKind::Launch && host.template.is_err() {
            host.template = MountTemplate::make();
        }
        let made = serve(&mut socket, &mut request, &host);
        answers::answer(socket.as_ref(), made);
    }
    Ok(())
}

/// Returns `None` once the agent has closed the socket.
fn read_request(socket: &mut Option<UnixStream>) -> Result<Option<LauncherRequest>, LauncherError> {
    let socket = socket.as_mut().expect("only supervisors close it");
    let mut header = [0; 8];
    let (mut length, mut descriptors) = (0, Vec::new());
    while length < header.len() {
        let rest = &mut header[length..];
        let flags = RecvFlags::empty();
        let received = sys::receive_with_descriptors::<DESCRIPTORS>(socket.as_fd(), rest, flags);
        match received {
            Ok((0, _)) => return Ok(None),
            Ok((count, received)) => {
                length += count;
                descriptors.extend(received);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => return Ok(None),
            Err(source) => return Err(LauncherError::Socket { source }),
        }
    }
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let size = word(4) as usize;
    let purpose = RequestKind::of(word(0)).filter(|_| size <= LAUNCH_LIMIT_BYTES);
    let purpose = purpose.ok_or(LauncherError::Garbled)?;
    let mut body = vec![0; size];
    match socket.read_exact(&mut body) {
        Ok(()) => {}
        // The agent died while it was sending: it will find the container not started.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(source) => return Err(LauncherError::Socket { source }),
    }
    let mut descriptors = descriptors.into_iter();
    Ok(Some(LauncherRequest {
        kind: purpose,
        body,
        agent: descriptors.next().ok_or(LauncherError::Garbled)?,
        others: descriptors.collect(),
    }))
}

/// Creates the process that the request asks for and returns its id; the new process answers the
/// agent.
fn serve(
    socket: &mut Option<UnixStream>,
    request: &mut LauncherRequest,
    host: &SupervisorContext,
) -> Option<i32> {
    crash_point!("launcher.request-read");
    let (kind, others) = (request.kind, &mut request.others);
    let (body, agent) = (&request.body, &request.agent);
    let made = sys::clone_process(0, None, || {
        // Otherwise the agent would not detect the launcher's exit while a container runs.
        *socket = None;
        match (kind, agent.try_clone()) {
            (RequestKind::Launch, Ok(agent)) => {
                supervisor::run(body, agent, std::mem::take(others), host)
            }
            (RequestKind::Unpack, _) => unpack::run(body, agent, &host.null),
            (RequestKind::Launch, Err(_)) => 1,
        }
    });
    crash_point!("launcher.supervisor-made");
    let errno = match made {
        Ok(child) => return Some(child.pid),
        Err(errno) => errno,
    };
    let reason = |process| format!("cannot make the {process}: {}", errno.desc());
    match kind {
        RequestKind::Launch => supervisor::refuse_unread(agent, &reason("supervisor")),
        RequestKind::Unpack => unpack::refuse(agent, reason("unpacking process")),
    }
    None
}

/// Returns a command for the running executable, to execute it again as a launcher.
///
/// # Errors
/// If `/proc` is not mounted.
pub fn own_executable() -> io::Result<Command> {
    // Through this path the kernel opens the running file itself, even if an upgrade replaced it.
    fs::metadata("/proc/self/exe").map(|_| Command::new(Path::new("/proc/self/exe")))
}
