//! System calls that neither std nor nix offers with a safe signature.
//!
//! Short functions only: no decision is made here.
#![allow(
    unsafe_code,
    reason = "the one file of the workspace that talks to the kernel by hand"
)]

pub mod bpf;
pub mod disk;
pub mod network;

use std::ffi::{CString, c_int, c_void};
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicU32;

use nix::errno::Errno;
use nix::sys::socket::{SockFlag, accept4};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};

/// The flag of `clone3` for which libc has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child created by [`clone_process`].
pub struct ClonedChild {
    /// Its process id in the caller's pid namespace.
    pub pid: i32,
    /// A pidfd, which never refers to a later process with the same id.
    pub handle: OwnedFd,
}

/// Creates a copy of this process that runs `child` and exits with the code it returns.
///
/// `flags` are `CLONE_NEW*` flags; with `cgroup` the child is created in that group. If the caller
/// is single-threaded, as launcher and supervisor are, the copy may do whatever the original may;
/// otherwise `child` must take no lock and allocate nothing.
pub fn clone_process(
    flags: c_int,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> i32,
) -> Result<ClonedChild, Errno> {
    let mut handle: RawFd = -1;
    // SAFETY: `clone_args` is plain integers, for which all zeroes is a valid value.
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.flags = flags as u64 | libc::CLONE_PIDFD as u64;
    arguments.pidfd = &raw mut handle as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(group) = &cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = group.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and a stack this is a fork: the child continues in a separate copy
    // of all memory, and `arguments` and `handle` outlive the call. The copy finds no lock held by
    // another thread: there is none, or `child` takes none.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    };
    let pid = Errno::result(returned)? as i32;
    if pid == 0 {
        let code = child();
        // SAFETY: ends the copy without running the exit handlers of the original.
        unsafe { libc::_exit(code) }
    }
    // SAFETY: the kernel has just created this descriptor for this process; nothing else owns it.
    let handle = unsafe { OwnedFd::from_raw_fd(handle) };
    Ok(ClonedChild { pid, handle })
}

/// Runs `child` in a process that shares this process's memory, while this process is suspended,
/// until it exits or executes another program; returns its process id. Captured variables that
/// `child` writes are changed here.
///
/// Cheaper than a copy: no page table is duplicated. The caller must be single-threaded.
pub fn spawn_borrowing(mut child: &mut dyn FnMut()) -> Result<i32, Errno> {
    extern "C" fn enter(argument: *mut c_void) -> c_int {
        let child = argument.cast::<&mut dyn FnMut()>();
        // SAFETY: the caller passes a pointer to its own live variable and waits for this function.
        unsafe { (*child)() };
        127
    }
    const STACK_BYTES: usize = 256 * 1024;
    let mut stack: Vec<u128> = Vec::with_capacity(STACK_BYTES / 16);
    let top = stack.as_mut_ptr().wrapping_add(STACK_BYTES / 16);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack lives in this frame, is aligned to 16 and is used only by the child;
    // CLONE_VFORK suspends this process until the child no longer runs in its memory.
    let pid = unsafe { libc::clone(enter, top.cast(), flags, (&raw mut child).cast()) };
    Errno::result(pid)
}

/// Maps a counter in the first bytes of a file, which this process shares with all its copies. The
/// mapping exists until the process exits.
pub fn shared_counter(file: impl AsFd) -> Result<&'static AtomicU32, Errno> {
    let (access, size) = (libc::PROT_READ | libc::PROT_WRITE, size_of::<u32>());
    let file = file.as_fd().as_raw_fd();
    // SAFETY: a new mapping, at an address of the kernel's choice.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size,
            access,
            libc::MAP_SHARED,
            file,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // SAFETY: it starts at a page boundary, is never unmapped, and is used only as this counter.
    Ok(unsafe { AtomicU32::from_ptr(at.cast()) })
}

/// Closes every descriptor above the standard streams, except these.
pub fn close_all_but_these(kept: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut kept: Vec<_> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    kept.sort_unstable();
    let mut first: RawFd = 3;
    for end in kept.into_iter().map(Some).chain([None]) {
        let last = end.map_or(RawFd::MAX, |end| end - 1);
        if last >= first {
            // SAFETY: called only where nothing is used afterwards that owns one of these
            // descriptors: right before an exec, or at the start of a new process.
            let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            Errno::result(closed)?;
        }
        first = end.map_or(first, |end| first.max(end + 1));
    }
    Ok(())
}

/// Opens a descriptor for this process; it never refers to a later process with the same id.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes two integers and touches no memory of this process.
    let returned = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = Errno::result(returned)? as RawFd;
    // SAFETY: the kernel has just created this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends `signal` to the process of a descriptor from [`pidfd_open`].
pub fn pidfd_send_signal(process: BorrowedFd<'_>, signal: c_int) -> Result<(), Errno> {
    // SAFETY: with a null `siginfo` the kernel fills in its own and touches no memory.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(returned).map(drop)
}

/// Sends `signal`, which may be a real-time signal, to all processes of a group.
pub fn signal_group(group: i32, signal: c_int) -> Result<(), Errno> {
    // SAFETY: the call takes two integers and touches no memory of this process.
    Errno::result(unsafe { libc::killpg(group, signal) }).map(drop)
}

/// The result of [`wait_child`] for a child that ended.
pub struct ExitedChild {
    pub pid: i32,
    /// As `wait(2)` encodes it.
    pub status: c_int,
    pub cpu_ms: u64,
    pub peak_memory_bytes: u64,
}

/// Reaps a child: `pid`, or any for −1. With `block` false it returns `None` when none has ended.
pub fn wait_child(pid: i32, block: bool) -> Result<Option<ExitedChild>, Errno> {
    let mut status = 0;
    // SAFETY: `rusage` is plain integers, for which all zeroes is a valid value.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    let options = libc::__WALL | if block { 0 } else { libc::WNOHANG };
    // SAFETY: both out-pointers are live for the call.
    let returned = unsafe { libc::wait4(pid, &raw mut status, options, &raw mut usage) };
    let milliseconds = |time: libc::timeval| time.tv_sec as u64 * 1000 + time.tv_usec as u64 / 1000;
    match Errno::result(returned)? {
        0 => Ok(None),
        pid => Ok(Some(ExitedChild {
            pid,
            status,
            cpu_ms: milliseconds(usage.ru_utime) + milliseconds(usage.ru_stime),
            peak_memory_bytes: usage.ru_maxrss as u64 * 1024,
        })),
    }
}

/// Resets all signals to their default, and ignores the end of children: the kernel reaps them.
pub fn reset_signals_and_ignore_children() {
    // The kernel's structure, larger than on any architecture. The library refuses signals 32 and
    // 33, which a parent may have left ignored.
    let default = [0_u64; 8];
    for signal in 1..=64 {
        // SAFETY: all zeroes is SIG_DFL with no flags, which installs no code; `default` is live
        // for the call. Signals that cannot be set are refused, as intended.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    // SAFETY: SIG_IGN installs no code.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Makes children waitable again.
pub fn expect_children() {
    // SAFETY: SIG_DFL installs no code.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Makes descriptor `target` (0, 1 or 2) refer to the file of `source`.
pub fn replace_descriptor(source: impl AsFd, target: RawFd) -> Result<(), Errno> {
    assert!(
        (0..=2).contains(&target),
        "only standard streams are replaced"
    );
    // SAFETY: std treats the standard streams as always open and without an owner.
    let returned = unsafe { libc::dup2(source.as_fd().as_raw_fd(), target) };
    Errno::result(returned).map(drop)
}

/// Duplicates the launcher's standard input, a socket, to a new descriptor that is closed on exec.
pub fn take_standard_input() -> Result<OwnedFd, Errno> {
    // SAFETY: F_DUPFD_CLOEXEC touches no memory; on success the descriptor is new, without owner.
    let fd = unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3) };
    Errno::result(fd)?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Accepts a connection if one is pending.
pub fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = accept4(listener.as_raw_fd(), flags)?;
    // SAFETY: the kernel has just created this descriptor for this process; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Receives bytes and at most `N` descriptors. Fails if there are more, and closes all.
pub fn receive_with_descriptors<const N: usize>(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(N))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [io::IoSliceMut::new(buffer)];
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let message = rustix::net::recvmsg(socket, &mut parts, &mut control, flags)?;
    let mut received = Vec::new();
    for control in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = control {
            received.extend(descriptors);
        }
    }
    // Checked only now that those that fit have an owner, which closes them. Because of alignment,
    // there may be room for one more.
    if message.flags.contains(ReturnFlags::CTRUNC) || received.len() > N {
        return Err(Errno::ENOBUFS.into());
    }
    Ok((message.bytes, received))
}

/// Sets the user, group and supplementary groups of the calling thread only.
///
/// It uses the raw system calls, because the library's functions would also signal the other
/// threads of a process whose memory this one shares.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the list is live for the call and its length is passed with it.
    let returned = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    Errno::result(returned)?;
    // SAFETY: three integers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: three integers.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Sets `MOUNT_ATTR_*` flags on a mount, with `all` on submounts too, and makes it private.
pub fn add_mount_attributes(tree: BorrowedFd<'_>, attributes: u64, all: bool) -> Result<(), Errno> {
    // SAFETY: `mount_attr` is plain integers, for which all zeroes is a valid value.
    let mut wanted: libc::mount_attr = unsafe { mem::zeroed() };
    wanted.attr_set = attributes;
    wanted.propagation = libc::MS_PRIVATE;
    let flags = if all { libc::AT_RECURSIVE } else { 0 };
    set_mount_attributes(tree, flags, &wanted)
}

/// Maps the owners of files below an unattached mount by a user namespace: user n is its user n.
pub fn map_owners(tree: BorrowedFd<'_>, users: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: `mount_attr` is plain integers, for which all zeroes is a valid value.
    let mut wanted: libc::mount_attr = unsafe { mem::zeroed() };
    wanted.attr_set = libc::MOUNT_ATTR_IDMAP;
    wanted.userns_fd = users.as_raw_fd() as u64;
    set_mount_attributes(tree, 0, &wanted)
}

fn set_mount_attributes(
    tree: BorrowedFd<'_>,
    flags: c_int,
    wanted: &libc::mount_attr,
) -> Result<(), Errno> {
    // SAFETY: an empty path, and a structure that is live for the call and of the size that is
    // passed with it.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            wanted,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(returned).map(drop)
}

/// Drops all capabilities except `kept` from the bounding set permanently: no executed program has
/// another.
pub fn bound_capabilities(kept: u64) -> Result<(), Errno> {
    for capability in (0..=63).filter(|number| kept & 1 << number == 0) {
        // SAFETY: integers only.
        let dropped = Errno::result(unsafe {
            libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0)
        });
        match dropped {
            // The kernel knows no further ones.
            Err(Errno::EINVAL) => break,
            other => other.map(drop)?,
        }
    }
    // SAFETY: integers only.
    Errno::result(unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    })
    .map(drop)
}

/// Drops permanently what could restore a capability: empties the bounding and ambient sets, and
/// makes root's user id unprivileged.
pub fn drop_capabilities() -> Result<(), Errno> {
    // From linux/securebits.h: no capabilities for root, none kept or raised, and all bits locked.
    const LOCKED: libc::c_ulong = 0b1110_1011;
    bound_capabilities(0)?;
    // SAFETY: integers only.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, LOCKED, 0, 0, 0) }).map(drop)
}

/// Keeps the permitted set when root becomes another user, until a program is executed.
pub fn keep_capabilities_over_user_change() -> Result<(), Errno> {
    // SAFETY: integers only.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) }).map(drop)
}

/// Passes these capabilities to executed programs; they must be permitted and inheritable.
pub fn raise_ambient(kept: u64) -> Result<(), Errno> {
    for capability in (0..=63).filter(|number| kept & 1 << number != 0) {
        // SAFETY: integers only.
        Errno::result(unsafe {
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_RAISE,
                capability as libc::c_ulong,
                0,
                0,
            )
        })?;
    }
    Ok(())
}

/// Sets the permitted, effective and inheritable sets.
pub fn set_capabilities(permitted: u64, inheritable: u64) -> Result<(), Errno> {
    /// From linux/capability.h: two words per set.
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let [low, high] = [permitted as u32, (permitted >> 32) as u32];
    let [passed_low, passed_high] = [inheritable as u32, (inheritable >> 32) as u32];
    let sets = [low, low, passed_low, high, high, passed_high];
    // SAFETY: both are live for the call and laid out as in version 3: version and process, then
    // two times effective, permitted, inheritable.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })
        .map(drop)
}

/// Installs a filter on this thread.
pub fn filter_system_calls(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let wanted = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads the program, whose length is passed with it and which is live for
    // the call.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const wanted,
        )
    };
    Errno::result(returned).map(drop)
}

/// Joins a new anonymous session keyring: this thread and its descendants possess none of the keys
/// of its parents.
pub fn join_new_session_keyring() -> Result<(), Errno> {
    /// From linux/keyctl.h.
    const JOIN_SESSION_KEYRING: c_int = 1;
    let no_name: *const c_void = std::ptr::null();
    // SAFETY: without a name the kernel reads no memory of this process.
    let answer = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, no_name) };
    Errno::result(answer).map(drop)
}

/// Returns the kernel's cookie of this thread's network namespace.
pub fn netns_cookie() -> Result<u64, Errno> {
    let socket = nix::sys::socket::socket(
        // Sockets of all families support the query, and this one needs no network.
        nix::sys::socket::AddressFamily::Unix,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    network::namespace_cookie(socket.as_fd())
}

/// Executes `program`; returns only if that fails.
pub fn execute(program: &CString, pointers: &ExecPointers) -> Errno {
    // SAFETY: both lists end in null and point into strings that `pointers` owns.
    unsafe {
        libc::execve(
            program.as_ptr(),
            pointers.arguments.as_ptr(),
            pointers.environment.as_ptr(),
        )
    };
    Errno::last()
}

/// Argument and environment lists in the kernel's format, prepared before the last step.
pub struct ExecPointers {
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    _owned: [Vec<CString>; 2],
}

impl ExecPointers {
    pub fn new(arguments: Vec<CString>, environment: Vec<CString>) -> Self {
        let list = |strings: &[CString]| {
            let pointers = strings.iter().map(|string| string.as_ptr());
            pointers.chain([std::ptr::null()]).collect()
        };
        Self {
            arguments: list(&arguments),
            environment: list(&environment),
            _owned: [arguments, environment],
        }
    }
}
