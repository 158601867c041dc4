//! The unpack processes: a monitor, and its child, the worker, which has access only to the archive
//! and the target.
//!
//! ```text
//! launcher ──clone3──▶ monitor ──clone3──▶ worker
//!                        │ maps its users, kills it when the agent disconnects, reports its death
//! agent ◀── one socket ──┴── progress and result ──┘
//! ```
//! The worker reads untrusted data with third-party decoders. So it runs as an unprivileged user in
//! separate namespaces of all kinds. Its root is an empty read-only directory, and it has archive
//! and target only as descriptors. Landlock restricts it to the target, a seccomp filter to 42
//! system calls.
//!
//! **Users.** For a fetched archive its only user is the owner of the files. For a layer it has
//! 65,536, from a range of the host's that no container gets. The target is mounted with mapped
//! owners, as later for the containers. What its user n writes belongs to user n on disk, and no
//! other file of user n is accessible.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use argosy_host::packets::{
    ReceiveResult, WaitMode, error_chain, packet_pair, receive_packet, send_packet,
};
use argosy_host::sys::{self, ClonedChild};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, setrlimit};
use serde::{Deserialize, Serialize};

use super::job::{FailureOrigin, UnpackFailure, UnpackJob, UnpackReport, receive_file};
use super::{ArchivePurpose, UnpackError, UnpackProgress, unpack};
use crate::cgroup::Cgroup;
use crate::confinement::drop_privileges;
use crate::confinement::seccomp::SeccompFilter;
use crate::rootfs::mount_calls::clone_dir;
use crate::rootfs::mounts::enter_empty_root;
use crate::spec::capabilities::Capabilities;
use crate::spec::profile::{CONTAINER_IDS, END_HOST_ID};
use argosy_host::crash_point;

/// The host ids of a layer's users during unpacking: those after the last that a container may
/// have.
const FIRST_HOST_ID: u32 = END_HOST_ID;
/// Its limit of address space, in bytes: a decoder's 128 MiB and the list of a zip file fit.
const MEMORY_LIMIT_BYTES: u64 = 1 << 30;
/// Its limit of processor time, in seconds.
const CPU_LIMIT_SECONDS: u64 = 1800;
/// Its limit of open files: removing a directory takes one per level.
const FILES_LIMIT: u64 = 512;
/// The number of entries between two reports.
const REPORT_STEP_ENTRIES: u64 = 1000;
/// The number of bytes between two reports.
const REPORT_STEP_BYTES: u64 = 1 << 20;

const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWUSER
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWCGROUP);

/// The system calls of the worker.
const CALLS: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sendto,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_tgkill,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// The message of the monitor to the worker.
#[derive(Debug, Serialize, Deserialize)]
enum WorkerInstruction {
    /// The user map of its user namespace is set.
    UsersMapped,
}

/// The monitor: runs in the new process, with `null` as its standard streams. Returns its exit
/// code, which is not used.
pub(crate) fn run(request: &[u8], agent: &OwnedFd, null: &OwnedFd) -> i32 {
    sys::expect_children();
    // It is safe to continue if any of these fails.
    let _ = nix::unistd::setsid();
    let _ = nix::sys::prctl::set_name(c"argosy-unpack");
    for target in 0..=2 {
        let _ = sys::replace_descriptor(null, target);
    }
    crash_point!("unpack.begun");
    match supervise_unpack(request, agent) {
        Ok(()) => 0,
        Err(reason) => {
            refuse(agent, reason);
            1
        }
    }
}

/// Reports that nothing was unpacked. An agent that has disconnected receives nothing.
pub(crate) fn refuse(agent: &OwnedFd, reason: String) {
    let _ = send_packet(
        agent,
        &UnpackReport::Failed(UnpackFailure::of_host(reason)),
        WaitMode::Block,
    );
}

/// The reason why a process cannot be created, as text.
type UnpackStartError = String;

fn supervise_unpack(request: &[u8], agent: &OwnedFd) -> Result<(), UnpackStartError> {
    let job: UnpackJob = serde_json::from_slice(request)
        .map_err(|error| format!("the request to unpack is invalid: {error}"))?;
    if let Some(group) = &job.group {
        // Its usage counts in that group, in which the worker is created.
        let own = nix::unistd::getpid().as_raw();
        Cgroup::at(group)
            .add(own)
            .map_err(|error| error_chain(&error))?;
    }
    let receive = || receive_file(agent).map_err(|error| format!("cannot receive a file: {error}"));
    let archive = receive()?;
    let target = receive()?;
    crash_point!("unpack.files-received");
    let is_layer = job.rules.source == ArchivePurpose::Layer;
    let target = if is_layer {
        clone_dir(target.as_fd()).map_err(|error| error_chain(&error))?
    } else {
        target
    };
    let words = |what: &str, errno: nix::errno::Errno| format!("cannot {what}: {}", errno.desc());
    let (channel, workers) = packet_pair().map_err(|errno| words("make a channel", errno))?;
    let mut channel = Some(channel);
    let worker = sys::clone_process(NAMESPACES.bits(), None, || {
        // Otherwise it would not notice that this process has exited.
        channel = None;
        run_worker(&job, &archive, &target, &workers, agent)
    });
    let worker = worker.map_err(|errno| words("make the unpacking process", errno))?;
    crash_point!("unpack.worker-made");
    let status = prepare(&job, &worker, &target)
        .and_then(|()| {
            crash_point!("unpack.users-mapped");
            let channel = channel.as_ref().expect("only the worker closes it");
            send_packet(channel, &WorkerInstruction::UsersMapped, WaitMode::Block)
                .map_err(|error| format!("cannot start the unpacking process: {error}"))
        })
        .map(|()| {
            crash_point!("unpack.leave-given");
            wait_for_worker(&worker, agent);
        });
    // It has ended, or must: the requester has disconnected.
    let _ = sys::pidfd_send_signal(worker.handle.as_fd(), libc::SIGKILL);
    let ended = sys::wait_child(worker.pid, true);
    crash_point!("unpack.worker-reaped");
    status?;
    match ended {
        Ok(Some(ended)) if ended.status == 0 => Ok(()),
        Ok(Some(ended)) if libc::WIFSIGNALED(ended.status) => Err(format!(
            "the unpacking process was ended by signal {}: it may have used more than {MEMORY_LIMIT_BYTES} bytes of \
             memory or {CPU_LIMIT_SECONDS} s of computing",
            libc::WTERMSIG(ended.status)
        )),
        _ => Err("the unpacking process exited without a result".to_owned()),
    }
}

/// Maps the worker's users, which only its parent can do.
fn prepare(
    job: &UnpackJob,
    worker: &ClonedChild,
    target: &OwnedFd,
) -> Result<(), UnpackStartError> {
    let directory = PathBuf::from(format!("/proc/{}", worker.pid));
    let write = |name: &str, map: String| {
        fs::write(directory.join(name), map)
            .map_err(|error| format!("cannot give the unpacking process its users: {error}"))
    };
    match job.rules.source {
        ArchivePurpose::Archive => {
            if !nix::unistd::geteuid().is_root() {
                // Without root a process may only map its own user, and only if groups cannot be
                // dropped that way.
                write("setgroups", "deny".to_owned())?;
            }
            write("gid_map", format!("0 {} 1", job.owner.gid))?;
            write("uid_map", format!("0 {} 1", job.owner.uid))
        }
        ArchivePurpose::Layer => {
            write("gid_map", format!("0 {FIRST_HOST_ID} {CONTAINER_IDS}"))?;
            write("uid_map", format!("0 {FIRST_HOST_ID} {CONTAINER_IDS}"))?;
            let users = File::open(directory.join("ns/user"))
                .map_err(|error| format!("cannot see the unpacking process's users: {error}"))?;
            sys::map_owners(target.as_fd(), users.as_fd()).map_err(|errno| {
                format!(
                    "cannot map owners on the file system of the target: it must support mounts with mapped owners, as \
                     ext4, xfs, btrfs do: {}",
                    errno.desc()
                )
            })
        }
    }
}

/// Returns when the worker has ended or the agent has disconnected.
fn wait_for_worker(worker: &ClonedChild, agent: &OwnedFd) {
    loop {
        let mut watched = [
            PollFd::new(worker.handle.as_fd(), PollFlags::POLLIN),
            // No data arrives there: only the peer's close wakes this process.
            PollFd::new(agent.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut watched, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// The worker: returns 0 if the result was sent to the agent.
fn run_worker(
    job: &UnpackJob,
    archive: &OwnedFd,
    target: &OwnedFd,
    channel: &OwnedFd,
    agent: &OwnedFd,
) -> i32 {
    if !matches!(
        receive_packet(channel, WaitMode::Block),
        Ok(ReceiveResult::Message(WorkerInstruction::UsersMapped))
    ) {
        return 1;
    }
    crash_point!("unpack.leave-taken");
    let report = confine(job, target)
        .and_then(|()| {
            crash_point!("unpack.confined");
            archive
                .try_clone()
                .map_err(|error| format!("cannot keep the archive: {error}"))
        })
        .map_err(UnpackFailure::of_host)
        .and_then(|archive| unpack_with_progress(job, archive, target, agent));
    let report = match report {
        Ok(unpacked) => UnpackReport::Done(unpacked),
        Err(failure) => UnpackReport::Failed(failure),
    };
    crash_point!("unpack.ended");
    // The agent then drops this process, which exits here or later.
    i32::from(send_packet(agent, &report, WaitMode::Block).is_err())
}

fn unpack_with_progress(
    job: &UnpackJob,
    archive: OwnedFd,
    target: &OwnedFd,
    agent: &OwnedFd,
) -> Result<super::UnpackResult, UnpackFailure> {
    let mut reported = UnpackProgress::default();
    let done = unpack(
        archive.into(),
        job.format,
        target.as_fd(),
        &job.rules,
        &mut |progress| {
            let much = progress.written_bytes - reported.written_bytes >= REPORT_STEP_BYTES;
            if much || progress.entries - reported.entries >= REPORT_STEP_ENTRIES {
                reported = progress;
                // If it is not read in time, the next one reports more.
                let _ = send_packet(agent, &UnpackReport::Progress(progress), WaitMode::Return);
            }
            ControlFlow::Continue(())
        },
    );
    done.map_err(|error| UnpackFailure {
        blame: match &error {
            UnpackError::Rejected { .. } | UnpackError::Damaged { .. } => FailureOrigin::Archive,
            UnpackError::Write { .. } | UnpackError::Cancelled => FailureOrigin::Host,
        },
        reason: error.message(),
    })
}

/// Confines the process: afterwards it has only the archive, the target and the agent's socket.
fn confine(job: &UnpackJob, target: &OwnedFd) -> Result<(), UnpackStartError> {
    let words = |what: &str, errno: nix::errno::Errno| format!("cannot {what}: {}", errno.desc());
    // An agent without root can only have mapped itself: then this is its user 0 already.
    let is_own = fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text == "deny\n");
    if !is_own {
        sys::become_user(0, 0, &[]).map_err(|errno| words("become another user", errno))?;
    }
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .map_err(|errno| words("end with the monitor", errno))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(|errno| words("make mounts private", errno))?;
    enter_empty_root().map_err(|error| error_chain(&error))?;
    let limits = [
        (Resource::RLIMIT_AS, MEMORY_LIMIT_BYTES),
        (Resource::RLIMIT_CPU, CPU_LIMIT_SECONDS),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, job.rules.bytes_max),
        (Resource::RLIMIT_NOFILE, FILES_LIMIT),
    ];
    for (resource, limit) in limits {
        setrlimit(resource, limit, limit).map_err(|errno| words("limit itself", errno))?;
    }
    sys::drop_capabilities().map_err(|errno| words("forgo capabilities", errno))?;
    // The worker changes the owners of a layer's files, and after that may still link to them and
    // set their modes.
    let kept: &[&str] = match job.rules.source {
        ArchivePurpose::Archive => &[],
        ArchivePurpose::Layer => &["CHOWN", "FOWNER", "FSETID"],
    };
    let kept = Capabilities::named(kept.iter().copied()).expect("they are known");
    sys::set_capabilities(kept.mask(), 0).map_err(|errno| words("drop capabilities", errno))?;
    nix::sys::prctl::set_no_new_privs().map_err(|errno| words("forbid new privileges", errno))?;
    drop_privileges::restrict_to_domain(target.as_fd())
        .map_err(|error| format!("cannot enforce Landlock: {error}"))?;
    SeccompFilter::only(CALLS)
        .install()
        .map_err(|errno| words("filter system calls", errno))
}
