//! A process of ours that reads what strangers have made and speaks to their servers, on an agent's behalf.
//!
//! ```text
//! agent ──exec──▶ service            one socket of packets, which may carry descriptors
//! ```
//! It is told by its first message what it is for, gives up all that it does not need for that ([`confine`]), and only
//! then listens to anybody else. It keeps nothing: what it writes, it writes to descriptors that come with requests.
//!
//! Its filter is that of containers without what makes processes, executes, waits for callers or reaches other
//! processes; Landlock leaves it a few folders to read and none to write.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{Shutdown, SockType, getsockopt, shutdown, sockopt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cgroup::{CgroupError, Group};
use crate::child;
pub use crate::child::Process;
use crate::drop_privileges;
use crate::messages::{self, Received, Wait};
use crate::process::has_ended;
use crate::profile::{CONTAINER_IDS, END_HOST_ID};
use crate::seccomp::Filter;
use crate::spawner::{Execution, Streams};
use crate::sys;

/// Its user and group on the host if the agent is root: after those that stand for layers' owners while they are
/// unpacked, so that neither a person nor a container ever is it.
pub const SERVICE_HOST_ID: u32 = END_HOST_ID + CONTAINER_IDS;
/// How many files it may have open: connections for all that an agent brings at a time.
const FILES_LIMIT: u64 = 4_096;
/// The most writable memory of its own that it may map: as much as its control group may use, on hosts without the
/// controller for that, too. Its stacks map less than 100 MiB of it.
const MEMORY_LIMIT_BYTES: u64 = 1 << 30;
/// How long it may take to end by itself once the agent has closed the socket.
const END_LIMIT: Duration = Duration::from_secs(1);

/// One end of the socket between an agent and its service.
#[derive(Debug)]
pub struct Packets(OwnedFd);

/// What came over it.
#[derive(Debug)]
pub enum Packet<T> {
    /// A message, with its descriptors.
    Message(T, Vec<OwnedFd>),
    /// The other side is gone, and everything that it sent has been read.
    Closed,
}

impl Packets {
    /// Two connected ends.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = messages::packet_pair()?;
        Ok((Self(one), Self(other)))
    }

    /// An end that came from another process.
    #[must_use]
    pub fn passed_on(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// The socket, to be passed on to another process.
    #[must_use]
    pub fn into_socket(self) -> OwnedFd {
        self.0
    }

    /// Sends a message whole, with descriptors of which the receiver gets its own. Waits for room.
    ///
    /// # Errors
    /// If the other side is gone, or the message is longer than 128 KiB as JSON.
    pub fn send<T: Serialize>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        messages::send_packet_with(&self.0, message, descriptors, Wait::Block)
    }

    /// Sends a message if there is room for it now; says whether there was.
    ///
    /// # Errors
    /// As [`Packets::send`].
    pub fn offer<T: Serialize>(&self, message: &T) -> io::Result<bool> {
        match messages::send_packet(&self.0, message, Wait::Return) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// If what came is no message.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Packet<T>> {
        loop {
            return match messages::receive_packet_with(&self.0, Wait::Block)? {
                Received::Message((message, descriptors)) => {
                    Ok(Packet::Message(message, descriptors))
                }
                Received::Closed => Ok(Packet::Closed),
                Received::Nothing => continue,
            };
        }
    }

    /// Waits for a message or for the end of the other side, up to `limit`; returns whether there is one.
    ///
    /// # Errors
    /// If the socket cannot be polled.
    pub fn is_readable(&self, limit: Duration) -> io::Result<bool> {
        has_ended(&self.0, limit)
    }

    /// Ends the conversation, for both sides and for whoever waits in [`Packets::receive`].
    pub fn close(&self) {
        // Fails only if it is closed.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Executes `command` as a service, whose program must call [`connection`] first of all. It is called `name` in a list of
/// processes, gets none of our environment but `kept`, and is put into `group` if one is given.
///
/// # Errors
/// If the program cannot be executed, or cannot be put into the group: then it is ended.
pub fn spawn(
    command: &Command,
    name: Option<&str>,
    kept: &[&str],
    group: Option<&Path>,
) -> Result<(Process, Packets), SpawnError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |source| SpawnError::Spawn {
        program: program.clone(),
        source,
    };
    let (ours, theirs) = messages::packet_pair().map_err(|errno| failed(errno.into()))?;
    let streams = Streams {
        input: theirs,
        output: child::null().map_err(failed)?,
        error: None,
    };
    let execution = Execution::of(command).called(name).apart();
    let execution = execution.without_environment().with_ours(kept);
    let process = Process::execute(&execution, streams).map_err(failed)?;
    if let Some(group) = group
        && let Err(error) = Group::at(group).add(process.id() as i32)
    {
        process.end();
        return Err(error.into());
    }
    Ok((process, Packets(ours)))
}

/// Ends a service whose socket was closed: it may do so by itself for a second.
pub fn end(mut process: Process) {
    if !matches!(process.reaped(END_LIMIT), Ok(Some(_))) {
        process.end();
    }
}

/// Why a service does not run.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Its program could not be executed.
    #[error("cannot start {program}")]
    Spawn {
        /// The program tried.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It could not be moved to its group.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// Standard input, which must be an agent's socket; every other descriptor but the standard ones is closed.
///
/// # Errors
/// If this process has threads already, or its standard input is no socket.
pub fn connection() -> io::Result<Packets> {
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
    sys::close_all_but(Some(socket.as_fd()))?;
    let null = fs::OpenOptions::new().read(true).open("/dev/null")?;
    sys::replace_descriptor(&null, 0)?;
    Ok(Packets(socket))
}

/// Gives up, for good and for all threads to come, what a service does not need. Files that are open stay so.
///
/// `readable` are the files and folders that it may still read; those that are not there are left out. No file that it
/// writes may become larger than `largest_bytes`.
///
/// # Errors
/// With the first that cannot be given up, in words. Nobody may be listened to then.
pub fn confine(readable: &[PathBuf], largest_bytes: u64) -> Result<(), String> {
    let words = |what: &'static str| move |errno: Errno| format!("cannot {what}: {}", errno.desc());
    match sys::join_new_session_keyring() {
        // As for the launcher: without this call there are no keys to possess.
        Ok(()) | Err(Errno::ENOSYS | Errno::EPERM) => {}
        Err(errno) => return Err(words("leave its keys")(errno)),
    }
    for (resource, limit) in [
        (Resource::RLIMIT_CORE, 0),
        // Not RLIMIT_AS: allocators reserve far more addresses than they use.
        (Resource::RLIMIT_DATA, MEMORY_LIMIT_BYTES),
        (Resource::RLIMIT_FSIZE, largest_bytes),
        (Resource::RLIMIT_NOFILE, FILES_LIMIT),
    ] {
        let (_, hard) = getrlimit(resource).map_err(words("read its limits"))?;
        let limit = limit.min(hard);
        setrlimit(resource, limit, limit).map_err(words("limit itself"))?;
    }
    if nix::unistd::geteuid().is_root() {
        sys::forgo_capabilities().map_err(words("forgo capabilities"))?;
        sys::become_user(SERVICE_HOST_ID, SERVICE_HOST_ID, &[])
            .map_err(words("become another user"))?;
        sys::set_capabilities(0, 0).map_err(words("drop capabilities"))?;
    }
    nix::sys::prctl::set_dumpable(false).map_err(words("hide its memory"))?;
    nix::sys::prctl::set_no_new_privs().map_err(words("forbid new privileges"))?;
    drop_privileges::only_read(readable)
        .map_err(|error| format!("cannot enforce Landlock: {error}"))?;
    Filter::of_services()
        .put_on()
        .map_err(words("filter system calls"))
}
