//! The syncs of one process, failing or slow: a tracer answers them in place of the kernel.
//!
//! The fault is a value. Ending it lets the process continue, as far as it still exists.

use std::fs;
use std::io::{Read as _, Seek as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::host_tools;
use crate::processes::end;

/// Timeout for a tracer to attach.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
const DETACH_TIMEOUT: Duration = Duration::from_secs(1);

/// The effect on the syncs of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncFault {
    /// They fail with EIO.
    Fail,
    /// They take this long.
    Take(Duration),
}

/// A tracer that answers system calls in place of the kernel.
#[derive(Debug)]
pub struct Tracer {
    child: Child,
}

impl Tracer {
    /// Attaches to a process, which may end because of that.
    ///
    /// # Errors
    /// If strace is not installed or does not attach.
    pub async fn attach(pid: u32, syncs: SyncFault) -> Result<Self> {
        let (calls, effect) = match syncs {
            SyncFault::Fail => ("fdatasync,fsync,sync_file_range", "error=EIO".to_owned()),
            SyncFault::Take(time) => (
                "fdatasync,fsync",
                format!("delay_enter={}", time.as_micros()),
            ),
        };
        let mut answered = tempfile::tempfile()?;
        let child = Command::new(host_tools::path("strace"))
            .args(["-f", "-qq", "-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:{effect}")])
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(answered.try_clone()?)
            .spawn()
            .context("cannot execute strace: install it")?;
        let mut tracer = Self { child };
        let end = tokio::time::Instant::now() + ATTACH_TIMEOUT;
        loop {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            if is_traced(&status) {
                return Ok(tracer);
            }
            if tokio::time::Instant::now() > end || tracer.child.try_wait()?.is_some() {
                // A process may end at its first failing sync, before the tracer was detected.
                answered.rewind()?;
                let mut lines = String::new();
                answered.read_to_string(&mut lines)?;
                // A delay ends no process: then the tracer alone has ended.
                let is_gone = !std::path::Path::new(&format!("/proc/{pid}")).exists();
                if lines.contains("(INJECTED") || (is_gone && lines.contains("(DELAYED")) {
                    return Ok(tracer);
                }
                bail!("strace does not attach to process {pid}: {}", lines.trim());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // SIGINT lets it detach. The process continues by itself.
        let _ = end(&mut self.child, Signal::SIGINT, DETACH_TIMEOUT);
    }
}

/// Whether a process with this `/proc/PID/status` has a tracer.
fn is_traced(status: &str) -> bool {
    let tracer = status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|pid| pid.trim() != "0")
}

/// Whether the program that traces is installed.
#[must_use]
pub fn is_possible() -> bool {
    host_tools::find("strace").is_some()
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

    #[tokio::test]
    async fn a_process_that_ends_of_its_first_failing_sync_was_tampered_with() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("synced");
        fs::write(&file, "").unwrap();
        for _ in 0..20 {
            let mut syncing = Command::new("sh")
                .args(["-c", "while :; do sync \"$0\" || exit 1; done"])
                .arg(&file)
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let tracer = Tracer::attach(syncing.id(), SyncFault::Fail).await.unwrap();
            assert!(!syncing.wait().unwrap().success());
            drop(tracer);
        }
    }
}
