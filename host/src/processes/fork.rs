//! Copies of this process that do other work.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use crate::sys;

/// A copy of a process, which is its child.
#[derive(Debug)]
pub struct ForkedChild {
    /// Its process id, in the caller's pid namespace.
    pub pid: u32,
    /// A pidfd for [`wait`].
    pub handle: OwnedFd,
}

/// Creates a copy of this process, called `name`, with only the standard streams and `kept` open,
/// no pending signals and no terminal. The copy runs `serve` and exits with the code that it
/// returns. Other descriptors of this process must not be used there.
///
/// # Errors
/// If this process has threads, or the host refuses the fork.
pub fn fork(
    name: &CStr,
    kept: &[BorrowedFd<'_>],
    serve: impl FnOnce() -> i32,
) -> io::Result<ForkedChild> {
    check_single_threaded()?;
    let copy = sys::clone_process(0, None, || {
        // It is safe to continue if any of these fails.
        let _ = nix::unistd::setsid();
        sys::reset_signals_and_ignore_children();
        sys::expect_children();
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
        let _ = nix::sys::prctl::set_name(name);
        let _ = nix::sys::prctl::set_dumpable(false);
        if sys::close_all_but_these(kept).is_err() {
            return 1;
        }
        serve()
    })?;
    Ok(ForkedChild {
        pid: copy.pid.unsigned_abs(),
        handle: copy.handle,
    })
}

/// Waits for the end of a child and describes how it ended, as text that follows "it". `child` is a
/// handle from [`fork`].
///
/// # Errors
/// If it is not a child of this process.
pub fn wait(child: BorrowedFd<'_>) -> io::Result<String> {
    loop {
        return match waitid(Id::PIDFd(child), WaitPidFlag::WEXITED) {
            Ok(WaitStatus::Exited(_, status)) => Ok(format!("exited with status {status}")),
            Ok(WaitStatus::Signaled(_, signal, _)) => Ok(format!("was killed by {signal}")),
            Ok(_) => Ok("has ended".to_owned()),
            Err(Errno::EINTR) => continue,
            Err(errno) => Err(errno.into()),
        };
    }
}

/// Rejects a process with threads, whose copy could find locks held.
///
/// # Errors
/// If this process has threads, or cannot count them.
pub fn check_single_threaded() -> io::Result<()> {
    let threads = fs::read_dir("/proc/self/task")?.count();
    if threads == 1 {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "an agent is divided before it has threads, and this process has {threads}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forking_with_threads_is_rejected() {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || ended.recv());
        let refused = fork(c"copy", &[], || 0).unwrap_err().to_string();
        drop(end);
        other.join().unwrap().unwrap_err();
        assert!(refused.contains("before it has threads"), "{refused}");
    }
}
