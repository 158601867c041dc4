//! Which process, and when: identities and instants that mean the same after this process is gone.

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

/// Milliseconds in a clock tick as `/proc` counts them: `USER_HZ` is 100 on x86_64 and aarch64.
const MS_A_TICK: u64 = 10;

/// One process of one boot: a number alone would mean a stranger once it is given out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number, as seen by the agent.
    pub pid: i32,
    /// Its start time in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
}

impl Process {
    /// The process that has this number now.
    ///
    /// # Errors
    /// If there is no such process, or `/proc` cannot be read.
    pub fn of(pid: i32) -> io::Result<Self> {
        let stat = Stat::read(pid)?;
        Ok(Self {
            pid,
            start_ticks: stat.start_ticks,
        })
    }

    /// The process that has this number now, if it is a child of this one.
    pub(crate) fn of_child(pid: i32, parent: u32) -> Option<Self> {
        let stat = Stat::read(pid).ok()?;
        (i64::from(stat.parent) == i64::from(parent)).then_some(Self {
            pid,
            start_ticks: stat.start_ticks,
        })
    }

    /// When it started. Rounded up to the next clock tick, so that no deadline that counts from it comes early.
    #[must_use]
    pub fn started_at(self) -> BootTime {
        let next_tick = self.start_ticks.saturating_add(1);
        BootTime(next_tick.saturating_mul(MS_A_TICK))
    }

    /// A handle on it (readable when it has ended), or `None` if it is gone or its number means another now.
    ///
    /// # Errors
    /// If the host has no descriptor left or refuses to give one.
    pub fn open(self) -> io::Result<Option<OwnedFd>> {
        let handle = match sys::pidfd_open(self.pid) {
            Ok(handle) => handle,
            Err(Errno::ESRCH | Errno::EINVAL) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // Read after the handle was made: equal start times then prove that the handle is the process'.
        match Stat::read(self.pid) {
            Ok(stat) if stat.start_ticks == self.start_ticks && !stat.ended => Ok(Some(handle)),
            Ok(_) => Ok(None),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it is gone, or on its way: a process leaves its control group before it has ended, and the first one of a pid
    /// namespace waits there for all others.
    pub(crate) fn is_ending(self) -> io::Result<bool> {
        match Stat::read(self.pid) {
            Ok(stat) => Ok(stat.start_ticks != self.start_ticks || stat.ended || stat.is_exiting),
            Err(error) if is_gone(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Kills it if it still lives, and waits for its end. True when it is gone.
    ///
    /// # Errors
    /// If the host refuses to tell or to kill.
    pub fn kill(self, patience: Duration) -> io::Result<bool> {
        let Some(handle) = self.open()? else {
            return Ok(true);
        };
        match sys::pidfd_send_signal(handle.as_fd(), libc::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
        has_ended(&handle, patience)
    }
}

/// Detects the features of the processor, which the standard library does once a process: copies of this process need not
/// repeat it. In a virtual machine each instruction for that traps.
pub(crate) fn detect_features() {
    #[cfg(target_arch = "x86_64")]
    std::hint::black_box(std::arch::is_x86_feature_detected!("avx2"));
}

/// Waits until the process behind a handle has ended. False when it has not in time.
pub(crate) fn has_ended(handle: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut watched = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, timeout) {
            Ok(ready) => return Ok(ready > 0),
            // In a program that handles signals the end of that very process may come as one.
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Of linux/sched.h: getting shut down.
const PF_EXITING: u32 = 4;

struct Stat {
    start_ticks: u64,
    parent: i32,
    ended: bool,
    is_exiting: bool,
}

impl Stat {
    fn read(pid: i32) -> io::Result<Self> {
        let mut text = [0; 1024];
        let length = File::open(format!("/proc/{pid}/stat"))?.read(&mut text)?;
        let garbled = || io::Error::other(format!("/proc/{pid}/stat is garbled"));
        Self::parse(&text[..length]).ok_or_else(garbled)
    }

    /// The name in field 2 may hold anything, even `) R 1`: what counts begins after the last parenthesis.
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
            ended,
            is_exiting: flags & PF_EXITING != 0,
        })
    }
}

/// The numbers of this process' children. Single-threaded callers only.
pub(crate) fn children() -> Vec<i32> {
    let own = std::process::id() as i32;
    if let Ok(text) = fs::read_to_string(format!("/proc/self/task/{own}/children")) {
        return text
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect();
    }
    // Kernels without CONFIG_PROC_CHILDREN, and a /proc that shows another pid namespace.
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| Stat::read(*pid).is_ok_and(|stat| stat.parent == own))
        .collect()
}

/// Kills and reaps every descendant of a subreaper: each one's orphans become its children in turn.
pub(crate) fn kill_descendants() {
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

/// To every process of a group of our descendants.
pub(crate) fn send_signal_to_group(group: i32, signal: i32) {
    if let Ok(signal) = nix::sys::signal::Signal::try_from(signal) {
        // A group that is gone cannot be told anything.
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), signal);
    }
}

/// Names this boot of the machine: numbers and start times of processes mean nothing across two.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// An instant on `CLOCK_BOOTTIME`, in milliseconds: shared by all processes of a boot, goes on in suspend,
/// never jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BootTime(pub u64);

impl BootTime {
    /// Now.
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
    fn a_process_name_full_of_fields_does_not_mislead() {
        let line = b"42 (a) R 1 (b) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 1";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            (stat.parent, stat.start_ticks, stat.ended),
            (7, 98765, false)
        );
        assert!(!stat.is_exiting);
        let line = b"42 (a) S 7 42 42 0 -1 4194564 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 1";
        assert!(Stat::parse(line).unwrap().is_exiting);
    }

    #[test]
    fn a_number_with_another_start_time_is_another_process() {
        let own = Process::of(std::process::id() as i32).unwrap();
        assert!(own.open().unwrap().is_some());
        let recycled = Process {
            start_ticks: own.start_ticks - 1,
            ..own
        };
        assert!(recycled.open().unwrap().is_none());
    }

    #[test]
    fn a_start_is_known_on_the_boot_clock_to_a_tick() {
        let before = BootTime::now();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let after = BootTime::now();
        let started_at = Process::of(child.id() as i32).unwrap().started_at();
        child.wait().unwrap();
        assert!(before <= started_at && started_at.0 <= after.0 + MS_A_TICK);
    }

    #[test]
    fn a_reaped_process_is_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = Process {
            pid: child.id() as i32,
            start_ticks: 0,
        };
        child.wait().unwrap();
        assert!(process.open().unwrap().is_none());
        assert!(process.kill(Duration::ZERO).unwrap());
    }
}
