//! Processes that a run starts. Each is ended by its own id when its handle is dropped.
//!
//! `setpriv --pdeathsig` also ends them if this program itself is killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Time for a process to exit after its standard input was closed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// The way to end a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopMethod {
    /// By SIGKILL.
    Killed,
    /// By the end of its standard input, or by SIGKILL after a timeout.
    InputClosed,
}

/// The command to start, which can be repeated after the process has exited.
#[derive(Debug, Clone)]
pub(crate) struct ProcessSpec {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// File for standard output and standard error.
    pub(crate) log: PathBuf,
    pub(crate) stop_method: StopMethod,
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    stop_method: StopMethod,
}

impl Process {
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start(recipe: &ProcessSpec) -> Result<Self> {
        let log = File::options().create(true).append(true).open(&recipe.log);
        let log = log.with_context(|| format!("cannot write {}", recipe.log.display()))?;
        let mut command = match recipe.stop_method {
            StopMethod::Killed => {
                let mut command = Command::new("setpriv");
                command
                    .args(["--pdeathsig", "KILL", "--"])
                    .arg(&recipe.program)
                    .stdin(Stdio::null());
                command
            }
            StopMethod::InputClosed => {
                let mut command = Command::new(&recipe.program);
                command.stdin(Stdio::piped());
                command
            }
        };
        command
            .args(&recipe.arguments)
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", recipe.program.display()))?;
        Ok(Self {
            child,
            log: recipe.log.clone(),
            stop_method: recipe.stop_method,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// # Errors
    /// If the process is gone.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid()).context("a pid fits")?);
        kill(pid, signal).with_context(|| format!("cannot send {signal} to {pid}"))
    }

    /// # Errors
    /// If it has ended, with the last lines that it wrote.
    pub(crate) fn expect_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("it ended early ({status}):\n{}", last_lines(&self.log));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.stop_method == StopMethod::InputClosed {
            drop(self.child.stdin.take());
            let end = Instant::now() + EXIT_TIMEOUT;
            while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // A process that has exited already is only reaped; a failure needs no action.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the last lines that a process wrote.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(directory: &Path, script: &str, ending: StopMethod) -> ProcessSpec {
        ProcessSpec {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            log: directory.join("log"),
            stop_method: ending,
        }
    }

    fn exists(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn a_process_ends_with_its_handle_even_when_it_is_frozen() {
        let directory = tempfile::tempdir().unwrap();
        let sleeper = spec(directory.path(), "exec sleep 1000", StopMethod::Killed);
        let process = Process::start(&sleeper).unwrap();
        let pid = process.pid();
        process.signal(Signal::SIGSTOP).unwrap();
        drop(process);
        assert!(!exists(pid));
    }

    #[test]
    fn the_last_log_lines_of_a_process_that_exits_early_are_reported() {
        let directory = tempfile::tempdir().unwrap();
        let short = spec(directory.path(), "echo no disk; exit 3", StopMethod::Killed);
        let mut process = Process::start(&short).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        let error = loop {
            match process.expect_alive() {
                Err(error) => break error.to_string(),
                Ok(()) => assert!(Instant::now() < end, "it never ended"),
            }
        };
        assert!(error.contains("no disk"), "{error}");
    }

    #[test]
    fn a_process_can_exit_gracefully_when_its_input_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let polite = spec(
            directory.path(),
            "cat; echo goodbye",
            StopMethod::InputClosed,
        );
        drop(Process::start(&polite).unwrap());
        assert_eq!(last_lines(&directory.path().join("log")), "goodbye");
    }
}
