//! The processes that unpack: a keeper, and below it one that has nothing but the archive and the target.
//!
//! ```text
//! launcher ──clone3──▶ keeper ──clone3──▶ worker
//!                        │ maps its users, ends it when the agent goes away, tells if it dies
//! agent ◀── one socket ──┴── progress and result ──┘
//! ```
//! The worker reads what a stranger has made, with decoders that are not ours. So it is somebody without rights in
//! namespaces of its own of all kinds, its root is an empty folder that cannot be written, and it reaches archive and
//! target by descriptors only; Landlock keeps it below the target, a filter from all but 42 system calls.
//!
//! **Users.** For a fetched archive its only user is the one that the files belong to. For a layer it has 65,536, of a
//! range of the host's that no container gets, and the target is mounted with mapped owners, as it will be for the
//! containers: what its user n writes belongs to user n on the disk, and nothing else of user n is within its reach.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, setrlimit};

use super::job::{Blame, Failure, Job, Report, receive_file};
use super::{Progress, Source, UnpackError, unpack};
use crate::capabilities::Capabilities;
use crate::cgroup::Group;
use crate::crash_points;
use crate::drop_privileges;
use crate::messages::{Instruction, Received, Wait, packet_pair, receive_packet, send_packet};
use crate::mounts;
use crate::profile::{CONTAINER_IDS, END_HOST_ID};
use crate::seccomp::Filter;
use crate::supervisor::{Host, sentence};
use crate::sys::{self, Child};

/// The host users that stand for a layer's while it is unpacked: those after the last that a container may have.
const FIRST_HOST_ID: u32 = END_HOST_ID;
/// How much memory it may address, in bytes: a decoder's 128 MiB and the list of a zip file fit.
const MEMORY_LIMIT_BYTES: u64 = 1 << 30;
/// How long it may compute, in seconds.
const CPU_LIMIT_SECONDS: u64 = 1800;
/// How many files it may have open: removing a folder takes one a level.
const FILES_LIMIT: u64 = 512;
/// How many entries pass between two reports.
const REPORT_STEP_ENTRIES: u64 = 1000;
/// How many bytes do.
const REPORT_STEP_BYTES: u64 = 1 << 20;

/// All namespaces there are.
const APART: CloneFlags = CloneFlags::CLONE_NEWUSER
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWCGROUP);

/// What the worker may ask of the kernel.
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

/// The keeper: runs in the new process; returns its exit code, which nobody reads.
pub(crate) fn run(request: &[u8], agent: &OwnedFd, host: &Host) -> i32 {
    sys::expect_children();
    // None of these can fail in a way that would make it wrong to go on.
    let _ = nix::unistd::setsid();
    let _ = nix::sys::prctl::set_name(c"argosy-unpack");
    for target in 0..=2 {
        let _ = sys::replace_descriptor(&host.null, target);
    }
    crash_points::passed("unpack.begun");
    match keep(request, agent) {
        Ok(()) => 0,
        Err(reason) => {
            refuse(agent, reason);
            1
        }
    }
}

/// Tells that nothing was unpacked. An agent that is gone hears nothing.
pub(crate) fn refuse(agent: &OwnedFd, reason: String) {
    let _ = send_packet(
        agent,
        &Report::Failed(Failure::of_host(reason)),
        Wait::Block,
    );
}

/// Why a process could not be made, in words.
type Refusal = String;

fn keep(request: &[u8], agent: &OwnedFd) -> Result<(), Refusal> {
    let job: Job = serde_json::from_slice(request)
        .map_err(|error| format!("the request to unpack is garbled: {error}"))?;
    if let Some(group) = &job.group {
        // What it uses counts there; the worker is made in it.
        let own = nix::unistd::getpid().as_raw();
        Group::at(group)
            .add(own)
            .map_err(|error| sentence(&error))?;
    }
    let receive = || receive_file(agent).map_err(|error| format!("cannot receive a file: {error}"));
    let archive = receive()?;
    let target = receive()?;
    crash_points::passed("unpack.files-received");
    let is_layer = job.rules.source == Source::Layer;
    let target = if is_layer {
        mounts::take_folder(target.as_fd()).map_err(|error| sentence(&error))?
    } else {
        target
    };
    let words = |what: &str, errno: nix::errno::Errno| format!("cannot {what}: {}", errno.desc());
    let (channel, workers) = packet_pair().map_err(|errno| words("make a channel", errno))?;
    let mut channel = Some(channel);
    let worker = sys::clone_process(APART.bits(), None, || {
        // Or it would not notice that we are gone.
        channel = None;
        work(&job, &archive, &target, &workers, agent)
    });
    let worker = worker.map_err(|errno| words("make the unpacking process", errno))?;
    crash_points::passed("unpack.worker-made");
    let status = prepare(&job, &worker, &target)
        .and_then(|()| {
            crash_points::passed("unpack.users-mapped");
            let channel = channel.as_ref().expect("only the worker closes it");
            send_packet(channel, &Instruction::Mapped, Wait::Block)
                .map_err(|error| format!("cannot start the unpacking process: {error}"))
        })
        .map(|()| {
            crash_points::passed("unpack.leave-given");
            attend(&worker, agent);
        });
    // It has ended, or must: there is nobody to unpack for.
    let _ = sys::pidfd_send_signal(worker.handle.as_fd(), libc::SIGKILL);
    let ended = sys::wait_child(worker.pid, true);
    crash_points::passed("unpack.worker-reaped");
    status?;
    match ended {
        Ok(Some(ended)) if ended.status == 0 => Ok(()),
        Ok(Some(ended)) if libc::WIFSIGNALED(ended.status) => Err(format!(
            "the unpacking process was ended by signal {}: it may have used more than {MEMORY_LIMIT_BYTES} bytes of \
             memory or {CPU_LIMIT_SECONDS} s of computing",
            libc::WTERMSIG(ended.status)
        )),
        _ => Err("the unpacking process broke off".to_owned()),
    }
}

/// Gives the worker its users, which only its parent can.
fn prepare(job: &Job, worker: &Child, target: &OwnedFd) -> Result<(), Refusal> {
    let folder = PathBuf::from(format!("/proc/{}", worker.pid));
    let write = |name: &str, map: String| {
        fs::write(folder.join(name), map)
            .map_err(|error| format!("cannot give the unpacking process its users: {error}"))
    };
    match job.rules.source {
        Source::Archive => {
            if !nix::unistd::geteuid().is_root() {
                // Whoever is not root may only map itself, and only if no groups can be given up by that.
                write("setgroups", "deny".to_owned())?;
            }
            write("gid_map", format!("0 {} 1", job.owner.gid))?;
            write("uid_map", format!("0 {} 1", job.owner.uid))
        }
        Source::Layer => {
            write("gid_map", format!("0 {FIRST_HOST_ID} {CONTAINER_IDS}"))?;
            write("uid_map", format!("0 {FIRST_HOST_ID} {CONTAINER_IDS}"))?;
            let users = File::open(folder.join("ns/user"))
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

/// Returns when the worker has ended or the agent has gone.
fn attend(worker: &Child, agent: &OwnedFd) {
    loop {
        let mut watched = [
            PollFd::new(worker.handle.as_fd(), PollFlags::POLLIN),
            // Nothing is said to us: what wakes us is the other side's end.
            PollFd::new(agent.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut watched, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// The worker: returns 0 if the agent was told how it went.
fn work(job: &Job, archive: &OwnedFd, target: &OwnedFd, channel: &OwnedFd, agent: &OwnedFd) -> i32 {
    if !matches!(
        receive_packet(channel, Wait::Block),
        Ok(Received::Message(Instruction::Mapped))
    ) {
        return 1;
    }
    crash_points::passed("unpack.leave-taken");
    let report = confine(job, target)
        .and_then(|()| {
            crash_points::passed("unpack.confined");
            archive
                .try_clone()
                .map_err(|error| format!("cannot keep the archive: {error}"))
        })
        .map_err(Failure::of_host)
        .and_then(|archive| unpack_telling(job, archive, target, agent));
    let report = match report {
        Ok(unpacked) => Report::Done(unpacked),
        Err(failure) => Report::Failed(failure),
    };
    crash_points::passed("unpack.ended");
    // Whoever hears it lets go of this process, which ends here or further on.
    i32::from(send_packet(agent, &report, Wait::Block).is_err())
}

fn unpack_telling(
    job: &Job,
    archive: OwnedFd,
    target: &OwnedFd,
    agent: &OwnedFd,
) -> Result<super::Unpacked, Failure> {
    let mut told = Progress::default();
    let done = unpack(
        archive.into(),
        job.format,
        target.as_fd(),
        &job.rules,
        &mut |progress| {
            let much = progress.written_bytes - told.written_bytes >= REPORT_STEP_BYTES;
            if much || progress.entries - told.entries >= REPORT_STEP_ENTRIES {
                told = progress;
                // If it is not read in time the next one says more.
                let _ = send_packet(agent, &Report::Progress(progress), Wait::Return);
            }
            ControlFlow::Continue(())
        },
    );
    done.map_err(|error| Failure {
        blame: match &error {
            UnpackError::Refused { .. } | UnpackError::Damaged { .. } => Blame::Archive,
            UnpackError::Write { .. } | UnpackError::Cancelled => Blame::Host,
        },
        reason: error.sentence(),
    })
}

/// From here on it has the archive, the target and the agent's socket, and nothing else.
fn confine(job: &Job, target: &OwnedFd) -> Result<(), Refusal> {
    let words = |what: &str, errno: nix::errno::Errno| format!("cannot {what}: {}", errno.desc());
    // An agent that is not root can only have mapped itself: then this is its user 0 already.
    let is_own = fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text == "deny\n");
    if !is_own {
        sys::become_user(0, 0, &[]).map_err(|errno| words("become another user", errno))?;
    }
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .map_err(|errno| words("end with the keeper", errno))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(|errno| words("make mounts private", errno))?;
    mounts::leave_for_nothing().map_err(|error| sentence(&error))?;
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
    sys::forgo_capabilities().map_err(|errno| words("forgo capabilities", errno))?;
    // A layer's files are given away, and after that may be linked to and get their modes.
    let kept: &[&str] = match job.rules.source {
        Source::Archive => &[],
        Source::Layer => &["CHOWN", "FOWNER", "FSETID"],
    };
    let kept = Capabilities::named(kept.iter().copied()).expect("they are known");
    sys::set_capabilities(kept.mask(), 0).map_err(|errno| words("drop capabilities", errno))?;
    nix::sys::prctl::set_no_new_privs().map_err(|errno| words("forbid new privileges", errno))?;
    drop_privileges::stay_below(target.as_fd())
        .map_err(|error| format!("cannot enforce Landlock: {error}"))?;
    Filter::only(CALLS)
        .put_on()
        .map_err(|errno| words("filter system calls", errno))
}
