//! A disk with slow syncs, for one process: `strace` delays each of them.
//!
//! The delay ends with the value. The process is stopped at each system call, so it is slower in
//! general.

use std::fs;
use std::io::{Read as _, Seek as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

/// Time for strace to attach.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval at which a process that is to attach or to exit is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Polls of a tracer that is to detach, after which it is killed.
const DETACH_POLLS: u32 = 100;

/// Returns whether the program that slows disks down is installed.
pub(crate) fn is_possible() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join("strace").is_file())
}

/// One process with a slow disk.
#[derive(Debug)]
pub(crate) struct SlowDisk {
    tracer: Child,
}

impl SlowDisk {
    /// Delays each sync of the process by this time from now on.
    ///
    /// # Errors
    /// If strace is not installed or may not attach.
    pub(crate) async fn attach(pid: u32, delay: Duration) -> Result<Self> {
        let mut output = tempfile::tempfile().context("cannot make a temporary file")?;
        let inject = format!("inject=fdatasync,fsync:delay_enter={}", delay.as_micros());
        let tracer = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=fdatasync,fsync", "-e", &inject])
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output.try_clone()?)
            .spawn()
            .context("cannot execute strace, which slows down disks: install it")?;
        let mut slow = Self { tracer };
        let end = Instant::now() + ATTACH_TIMEOUT;
        loop {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            if is_traced(&status) {
                return Ok(slow);
            }
            if Instant::now() > end || slow.tracer.try_wait()?.is_some() {
                output.rewind()?;
                let mut lines = String::new();
                output.read_to_string(&mut lines)?;
                bail!("strace does not attach to process {pid}: {}", lines.trim());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // INT makes it detach, and the process continues. A tracer that has exited is only reaped.
        if let Ok(pid) = i32::try_from(self.tracer.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
        for _ in 0..DETACH_POLLS {
            if !matches!(self.tracer.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        let _ = self.tracer.kill();
        let _ = self.tracer.wait();
    }
}

/// Returns whether a process with this `/proc/PID/status` has a tracer.
fn is_traced(status: &str) -> bool {
    let tracer = status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|pid| pid.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_traced_when_its_status_names_a_tracer() {
        assert!(is_traced("Name:\tx\nTracerPid:\t17\nUid:\t0\n"));
        assert!(!is_traced("Name:\tx\nTracerPid:\t0\n"));
        assert!(!is_traced(""));
    }
}
