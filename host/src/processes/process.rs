//! Process identities and instants that stay valid after this process has ended.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Add;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::sys;

/// Milliseconds per clock tick in `/proc`: `USER_HZ` is 100 on x86_64 and aarch64.
const MS_PER_TICK: u64 = 10;

/// One process of one boot. A process id alone would mean another process after its reuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its process id, as seen by the agent.
    pub pid: i32,
    /// Its start time in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
}

impl ProcessId {
    /// Returns the process that has this id now.
    ///
    /// # Errors
    /// If there is no such process, or `/proc` cannot be read.
    pub fn of(pid: i32) -> io::Result<Self> {
        let stat = ProcStat::read(pid)?;
        Ok(Self {
            pid,
            start_ticks: stat.start_ticks,
        })
    }

    /// Returns the process that has this id now, if it is a child of `parent`.
    pub fn of_child(pid: i32, parent: u32) -> Option<Self> {
        let stat = ProcStat::read(pid).ok()?;
        (i64::from(stat.parent) == i64::from(parent)).then_some(Self {
            pid,
            start_ticks: stat.start_ticks,
        })
    }

    /// Returns the start time, rounded up to the next clock tick, so that no deadline that counts
    /// from it comes early.
    #[must_use]
    pub fn started_at(self) -> BootTime {
        let next_tick = self.start_ticks.saturating_add(1);
        BootTime(next_tick.saturating_mul(MS_PER_TICK))
    }

    /// Opens a pidfd (readable when the process has ended), or returns `None` if it has ended or
    /// its id was reused.
    ///
    /// # Errors
    /// If the host has no descriptor left or refuses to give one.
    pub fn open(self) -> io::Result<Option<OwnedFd>> {
        let handle = match sys::pidfd_open(self.pid) {
            Ok(handle) => handle,
            Err(Errno::ESRCH | Errno::EINVAL) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // Read after the pidfd was opened: equal start times then prove that the pidfd is for this
        // process.
        match ProcStat::read(self.pid) {
            Ok(stat) if stat.start_ticks == self.start_ticks && !stat.has_ended => Ok(Some(handle)),
            Ok(_) => Ok(None),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it has ended or is exiting: a process leaves its cgroup before it has ended, and the
    /// first one of a pid namespace waits there for all others.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn is_ending(self) -> io::Result<bool> {
        match ProcStat::read(self.pid) {
            Ok(stat) => {
                Ok(stat.start_ticks != self.start_ticks || stat.has_ended || stat.is_exiting)
            }
            Err(error) if is_gone(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Kills the process if it is alive, and waits for its end. Returns true when it has ended.
    ///
    /// # Errors
    /// If the host refuses to report or to kill.
    pub fn kill(self, timeout: Duration) -> io::Result<bool> {
        let Some(handle) = self.open()? else {
            return Ok(true);
        };
        match sys::pidfd_send_signal(handle.as_fd(), libc::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
        has_ended(&handle, timeout)
    }
}

/// Detects the processor's features, which the standard library does once per process: copies of
/// this process need not repeat it. In a virtual machine each instruction for that traps.
pub fn detect_features() {
    #[cfg(target_arch = "x86_64")]
    std::hint::black_box(std::arch::is_x86_feature_detected!("avx2"));
}

/// Waits until the process of a pidfd has ended. Returns false on a timeout.
///
/// # Errors
/// If the host refuses to wait.
pub fn has_ended(handle: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut watched = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, timeout) {
            Ok(ready) => return Ok(ready > 0),
            // In a program that handles signals, the end of that process may itself arrive as one.
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// From linux/sched.h: the process is exiting.
const PF_EXITING: u32 = 4;

struct ProcStat {
    start_ticks: u64,
    parent: i32,
    has_ended: bool,
    is_exiting: bool,
}

impl ProcStat {
    fn read(pid: i32) -> io::Result<Self> {
        let mut text = [0; 1024];
        let length = File::open(format!("/proc/{pid}/stat"))?.read(&mut text)?;
        let garbled = || io::Error::other(format!("/proc/{pid}/stat is malformed"));
        Self::parse(&text[..length]).ok_or_else(garbled)
    }

    /// The name in field 2 may hold anything, even `) R 1`: the fields start after the last
    /// parenthesis.
    fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let mut fields = std::str::from_utf8(&text[end + 1..])
            .ok()?
            .split_ascii_whitespace();
        let ended = matches!(fields.next()?, "Z" | "X" | "x");
        let parent = fields.next()?.parse().ok()?;
        let flags: u32 = fields.nth(4)?.parse().ok()?;
        let start_ticks = fields.nth(12)?.parse().ok()?;
        Some(Self {
            start_ticks,
            parent,
            has_ended: ended,
            is_exiting: flags & PF_EXITING != 0,
        })
    }
}

/// Returns the ids of this process's children. Single-threaded callers only.
pub fn children() -> Vec<i32> {
    let own = std::process::id() as i32;
    if let Ok(text) = fs::read_to_string(format!("/proc/self/task/{own}/children")) {
        return text
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect();
    }
    // Kernels without CONFIG_PROC_CHILDREN, and a /proc of another pid namespace.
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| ProcStat::read(*pid).is_ok_and(|stat| stat.parent == own))
        .collect()
}

/// Kills and reaps every descendant of a subreaper: the orphans of each become its children in
/// turn.
pub fn kill_descendants() {
    loop {
        for pid in children() {
            // It may have ended since: then there is nothing to kill.
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
        match sys::wait_child(-1, true) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// Keeps the memory of this process out of core dumps, and other processes of its user from reading
/// it. A program that it executes is not affected.
///
/// # Errors
/// If the kernel refuses a limit of 0 for core files.
pub fn hide_memory() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    setrlimit(Resource::RLIMIT_CORE, 0, hard)?;
    // The limit alone does not concern a handler to which the kernel pipes the dump.
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// Sends a signal to every process of a group of descendants.
pub fn send_signal_to_group(group: i32, signal: i32) {
    // A group that has ended receives no signal.
    let _ = sys::signal_group(group, signal);
}

/// Returns the id of this boot: process ids and start times are not comparable across boots.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// An instant on `CLOCK_BOOTTIME`, in milliseconds: shared by all processes of a boot, continues
/// during suspend, never jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BootTime(pub u64);

impl BootTime {
    /// Returns the current time.
    #[must_use]
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux has CLOCK_BOOTTIME");
        Self(time.tv_sec() as u64 * 1000 + time.tv_nsec() as u64 / 1_000_000)
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(milliseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_that_looks_like_fields_is_parsed() {
        let line = b"42 (a) R 1 (b) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 1";
        let stat = ProcStat::parse(line).unwrap();
        assert_eq!(
            (stat.parent, stat.start_ticks, stat.has_ended),
            (7, 98765, false)
        );
        assert!(!stat.is_exiting);
        let line = b"42 (a) S 7 42 42 0 -1 4194564 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 1";
        assert!(ProcStat::parse(line).unwrap().is_exiting);
    }

    #[test]
    fn a_number_with_another_start_time_is_another_process() {
        let own = ProcessId::of(std::process::id() as i32).unwrap();
        assert!(own.open().unwrap().is_some());
        let recycled = ProcessId {
            start_ticks: own.start_ticks - 1,
            ..own
        };
        assert!(recycled.open().unwrap().is_none());
    }

    #[test]
    fn the_start_time_is_accurate_to_a_tick() {
        let before = BootTime::now();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let after = BootTime::now();
        let started_at = ProcessId::of(child.id() as i32).unwrap().started_at();
        child.wait().unwrap();
        assert!(before <= started_at && started_at.0 <= after.0 + MS_PER_TICK);
    }

    #[test]
    fn a_reaped_process_is_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = ProcessId {
            pid: child.id() as i32,
            start_ticks: 0,
        };
        child.wait().unwrap();
        assert!(process.open().unwrap().is_none());
        assert!(process.kill(Duration::ZERO).unwrap());
    }
}
