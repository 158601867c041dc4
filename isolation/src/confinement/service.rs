//! A service process: it reads untrusted content and connects to untrusted servers on an agent's
//! behalf.
//!
//! ```text
//! agent ──exec──▶ service            one socket of packets, which may carry descriptors
//! ```
//! Its first message contains its configuration. It drops everything that it does not need
//! ([`confine`]), and only then reads other input. It keeps no state, and writes only to
//! descriptors that come with requests.
//!
//! Its seccomp filter is that of containers without calls that create processes, execute, accept
//! connections or access other processes. Landlock lets it read a few directories and write none.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub use argosy_host::child::ChildProcess;
use argosy_host::packets::{self, ReceiveResult, WaitMode};
use argosy_host::process::has_ended;
use argosy_host::spawner::{ProgramCall, StandardStreams};
use argosy_host::{child, sys};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{Shutdown, SockType, getsockopt, shutdown, sockopt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cgroup::{Cgroup, CgroupError};
use crate::confinement::drop_privileges;
use crate::confinement::drop_privileges::close_all_but;
use crate::confinement::seccomp::SeccompFilter;
use crate::spec::profile::{CONTAINER_IDS, END_HOST_ID};

/// Its user and group on the host if the agent is root. The id is after those of layers' owners
/// during unpacking, so neither a person nor a container ever has it.
pub const SERVICE_HOST_ID: u32 = END_HOST_ID + CONTAINER_IDS;
/// Its limit of open files: connections for everything that an agent downloads at a time.
const FILES_LIMIT: u64 = 4_096;
/// Its limit of private writable memory: as much as its cgroup may use, for hosts without the
/// memory controller. Its stacks map less than 100 MiB of it.
const MEMORY_LIMIT_BYTES: u64 = 1 << 30;
/// The time in which it must exit once the agent has closed the socket.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// One end of the socket between an agent and its service.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

/// A packet from the peer.
#[derive(Debug)]
pub enum Packet<T> {
    /// A message, with its descriptors.
    Message(T, Vec<OwnedFd>),
    /// The peer has closed the socket, and every message is read.
    Closed,
}

impl PacketSocket {
    /// Returns two connected ends.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = packets::packet_pair()?;
        Ok((Self(one), Self(other)))
    }

    /// Wraps an end that came from another process.
    #[must_use]
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Returns the socket, to pass it to another process.
    #[must_use]
    pub fn into_socket(self) -> OwnedFd {
        self.0
    }

    /// Sends a message whole, with descriptors that are duplicated for the receiver. Blocks while
    /// the socket is full.
    ///
    /// # Errors
    /// If the peer has closed the socket, or the message is longer than 128 KiB as JSON.
    pub fn send<T: Serialize>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        packets::send_packet_with(&self.0, message, descriptors, WaitMode::Block)
    }

    /// Sends a message unless the socket is full; returns whether it was sent.
    ///
    /// # Errors
    /// As [`PacketSocket::send`].
    pub fn try_send<T: Serialize>(&self, message: &T) -> io::Result<bool> {
        match packets::send_packet(&self.0, message, WaitMode::Return) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// If the packet is not a valid message.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Packet<T>> {
        loop {
            return match packets::receive_packet_with(&self.0, WaitMode::Block)? {
                ReceiveResult::Message((message, descriptors)) => {
                    Ok(Packet::Message(message, descriptors))
                }
                ReceiveResult::Closed => Ok(Packet::Closed),
                ReceiveResult::Nothing => continue,
            };
        }
    }

    /// Waits for a message or for the peer's close, up to `limit`; returns whether there is one.
    ///
    /// # Errors
    /// If the socket cannot be polled.
    pub fn is_readable(&self, limit: Duration) -> io::Result<bool> {
        has_ended(&self.0, limit)
    }

    /// Closes the connection for both ends, and wakes a thread in [`PacketSocket::receive`].
    pub fn close(&self) {
        // Fails only if it is closed.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Executes `command` as a service; its program must call [`connection`] before anything else. The
/// process is called `name` in process lists, inherits only the variables `kept` of the
/// environment, and is put into `group` if one is given.
///
/// # Errors
/// If the program cannot be executed, or cannot be put into the group: then it is killed.
pub fn spawn(
    command: &Command,
    name: Option<&str>,
    kept: &[&str],
    group: Option<&Path>,
) -> Result<(ChildProcess, PacketSocket), SpawnError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |source| SpawnError::Spawn {
        program: program.clone(),
        source,
    };
    let (ours, theirs) = packets::packet_pair().map_err(|errno| failed(errno.into()))?;
    let streams = StandardStreams {
        input: theirs,
        output: child::null().map_err(failed)?,
        error: None,
    };
    let execution = ProgramCall::of(command).named(name).detached();
    let execution = execution.without_environment().with_own_environment(kept);
    let process = ChildProcess::execute(&execution, streams).map_err(failed)?;
    if let Some(group) = group
        && let Err(error) = Cgroup::at(group).add(process.id() as i32)
    {
        process.kill();
        return Err(error.into());
    }
    Ok((process, PacketSocket(ours)))
}

/// Ends a service whose socket was closed: kills it if it has not exited within a second.
pub fn stop(mut process: ChildProcess) {
    if !matches!(process.wait(STOP_TIMEOUT), Ok(Some(_))) {
        process.kill();
    }
}

/// An error of starting a service.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Its program cannot be executed.
    #[error("cannot start {program}")]
    Spawn { program: String, source: io::Error },
    /// It cannot be moved into its group.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// Returns standard input, which must be an agent's socket; closes every descriptor except the
/// standard ones.
///
/// # Errors
/// If this process has threads already, or its standard input is not a socket.
pub fn connection() -> io::Result<PacketSocket> {
    let threads = fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        let why = format!("a service must begin before any thread; this process has {threads}");
        return Err(io::Error::other(why));
    }
    let socket = sys::take_standard_input()?;
    if getsockopt(&socket, sockopt::SockType) != Ok(SockType::SeqPacket) {
        return Err(io::Error::other(
            "a service is started by an agent only: its standard input must be the agent's socket",
        ));
    }
    close_all_but(Some(socket.as_fd()))?;
    let null = fs::OpenOptions::new().read(true).open("/dev/null")?;
    sys::replace_descriptor(&null, 0)?;
    Ok(PacketSocket(socket))
}

/// Drops everything that a service does not need, permanently and for all later threads. Open files
/// stay open.
///
/// `readable` are the files and directories that it may still read; missing ones are left out. No
/// file that it writes may become larger than `largest_bytes`.
///
/// # Errors
/// The first restriction that cannot be applied, as text. The service must then accept no input.
pub fn confine(readable: &[PathBuf], largest_bytes: u64) -> Result<(), String> {
    let words = |what: &'static str| move |errno: Errno| format!("cannot {what}: {}", errno.desc());
    match sys::join_new_session_keyring() {
        // As for the launcher: without this system call there are no keyrings.
        Ok(()) | Err(Errno::ENOSYS | Errno::EPERM) => {}
        Err(errno) => return Err(words("leave its session keyring")(errno)),
    }
    for (resource, limit) in [
        (Resource::RLIMIT_CORE, 0),
        // Not RLIMIT_AS: allocators reserve far more address space than they use.
        (Resource::RLIMIT_DATA, MEMORY_LIMIT_BYTES),
        (Resource::RLIMIT_FSIZE, largest_bytes),
        (Resource::RLIMIT_NOFILE, FILES_LIMIT),
    ] {
        let (_, hard) = getrlimit(resource).map_err(words("read its limits"))?;
        let limit = limit.min(hard);
        setrlimit(resource, limit, limit).map_err(words("limit itself"))?;
    }
    if nix::unistd::geteuid().is_root() {
        sys::drop_capabilities().map_err(words("forgo capabilities"))?;
        sys::become_user(SERVICE_HOST_ID, SERVICE_HOST_ID, &[])
            .map_err(words("become another user"))?;
        sys::set_capabilities(0, 0).map_err(words("drop capabilities"))?;
    }
    nix::sys::prctl::set_dumpable(false).map_err(words("hide its memory"))?;
    nix::sys::prctl::set_no_new_privs().map_err(words("forbid new privileges"))?;
    drop_privileges::restrict_to_reading(readable)
        .map_err(|error| format!("cannot enforce Landlock: {error}"))?;
    SeccompFilter::of_services()
        .install()
        .map_err(words("filter system calls"))
}
