//! Processes under test: started, signalled and ended through the handle that started them, and
//! started again.
//!
//! It has no knowledge of clusters. An unexpected end is detected and reported, never hidden.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use argosy_state::bugs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host_tools;
use crate::network::inside;

/// Interval at which the end of a process is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Time for a process to end after its standard input was closed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Lines of its log that the error of an early end has.
const TAIL_LINES: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It cannot be started.
    #[error("cannot start {name}")]
    Start { name: String, source: io::Error },
    /// It does not run now.
    #[error("{0} does not run")]
    NotRunning(String),
    #[error("{name} has not ended within {timeout:?}")]
    DoesNotEnd { name: String, timeout: Duration },
    /// It has ended by itself.
    #[error("{name} ended early ({status}):\n{log}")]
    EndedEarly {
        name: String,
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
}

/// The way in which a process is started, and in which it ends with its handle. It inherits no
/// variables that are flags of Argosy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaunchMethod {
    /// In this network namespace, the one of its host. Ctrl-C at the terminal does not reach it.
    InNamespace(String),
    /// The same, with the id of the boot in this file: after a reboot of its host.
    InBoot(String, PathBuf),
    /// In the network of this program.
    Plain,
    /// By these words, a program and its arguments, which replaces itself with the process.
    Through(Vec<String>),
    /// In the network of this program. The kernel kills it if this program is killed.
    WithParent,
    /// In the network of this program, which ends it by the end of its standard input.
    WithInput,
}

/// Replaces the boot id of the kernel, for one mount namespace.
const SET_BOOT_ID: &str = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";

/// The command of a process. It can be started again.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    /// As "master-1".
    pub name: String,
    pub launch: LaunchMethod,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// The file for standard output and standard error.
    pub log: PathBuf,
}

/// Settings of one run of a process, in addition to its spec.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunSettings {
    /// Environment variables.
    pub environment: Vec<(String, String)>,
}

/// A process that may be running, frozen or down.
#[derive(Debug)]
pub struct ManagedProcess {
    pub spec: ProcessSpec,
    child: Option<Child>,
    frozen: bool,
    /// The exit status of the last run, unless this handle killed it.
    last_exit: Option<ExitStatus>,
    /// Active faults that may end it.
    allowed_exits: u32,
    /// The number of its starts.
    pub starts: u32,
}

impl ManagedProcess {
    pub fn new(spec: ProcessSpec) -> Self {
        Self {
            spec,
            child: None,
            frozen: false,
            last_exit: None,
            allowed_exits: 0,
            starts: 0,
        }
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Starts the process, unless it runs.
    ///
    /// # Errors
    /// [`ProcessError`]
    pub fn start(&mut self) -> Result<(), ProcessError> {
        self.start_with(&RunSettings::default())
    }

    /// Starts the process with settings in addition to its spec, unless it runs.
    ///
    /// # Errors
    /// [`ProcessError`]
    pub fn start_with(&mut self, settings: &RunSettings) -> Result<(), ProcessError> {
        if self.child.is_some() {
            return Ok(());
        }
        let child = self.spawn(settings).map_err(|source| ProcessError::Start {
            name: self.spec.name.clone(),
            source,
        })?;
        self.child = Some(child);
        self.frozen = false;
        self.last_exit = None;
        self.starts += 1;
        Ok(())
    }

    fn spawn(&self, settings: &RunSettings) -> io::Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.spec.log)?;
        let mut command = self.command();
        command.stdout(log.try_clone()?).stderr(log);
        command.envs(
            settings
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        );
        command.spawn()
    }

    fn command(&self) -> Command {
        let mut words = Vec::new();
        match &self.spec.launch {
            LaunchMethod::InNamespace(namespace) => {
                words.push(host_tools::path("nsenter").into_os_string());
                words.extend([inside(namespace).into(), "--".into()]);
            }
            LaunchMethod::InBoot(namespace, boot_id) => {
                words.push(host_tools::path("nsenter").into_os_string());
                words.extend([inside(namespace).into(), "--".into()]);
                words.extend(["unshare", "--mount", "sh", "-c", SET_BOOT_ID].map(OsString::from));
                words.push(boot_id.into());
            }
            LaunchMethod::WithParent => {
                words.extend(["setpriv", "--pdeathsig", "KILL", "--"].map(OsString::from));
            }
            LaunchMethod::Through(before) => words.extend(before.iter().map(OsString::from)),
            LaunchMethod::Plain | LaunchMethod::WithInput => {}
        }
        words.push(self.spec.program.clone().into_os_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(&self.spec.arguments);
        remove_flag_variables(&mut command);
        match &self.spec.launch {
            LaunchMethod::WithInput => command.stdin(Stdio::piped()),
            // Ctrl-C at the terminal must reach only the harness.
            LaunchMethod::InNamespace(_) | LaunchMethod::InBoot(..) => {
                command.stdin(Stdio::null()).process_group(0)
            }
            LaunchMethod::Plain | LaunchMethod::Through(_) | LaunchMethod::WithParent => {
                command.stdin(Stdio::null())
            }
        };
        command
    }

    /// Marks the start of a fault that may end the process.
    pub fn allow_exit(&mut self) {
        self.allowed_exits += 1;
    }

    /// Marks the end of such a fault.
    pub fn forbid_exit(&mut self) {
        self.allowed_exits = self.allowed_exits.saturating_sub(1);
    }

    pub fn may_exit(&self) -> bool {
        self.allowed_exits > 0
    }

    /// Returns its pid, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it runs, frozen or not, as far as is known.
    pub fn is_up(&self) -> bool {
        self.child.is_some()
    }

    pub fn is_frozen(&self) -> bool {
        self.child.is_some() && self.frozen
    }

    /// Whether it runs and is not frozen.
    pub fn is_healthy(&self) -> bool {
        self.child.is_some() && !self.frozen
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If the process does not run.
    pub fn send(&self, signal: Signal) -> Result<(), ProcessError> {
        let absent = || ProcessError::NotRunning(self.spec.name.clone());
        let pid = self.pid().ok_or_else(absent)?;
        // It is a child that was not waited for, so the pid is still valid.
        let pid = Pid::from_raw(i32::try_from(pid).map_err(|_| absent())?);
        kill(pid, signal).map_err(|_| absent())
    }

    /// Sends SIGSTOP.
    ///
    /// # Errors
    /// [`ProcessError`]
    pub fn freeze(&mut self) -> Result<(), ProcessError> {
        self.send(Signal::SIGSTOP)?;
        self.frozen = true;
        Ok(())
    }

    /// Sends SIGCONT. Has no effect on a process that is down.
    pub fn resume(&mut self) {
        if self.is_frozen() {
            // A process that has ended needs no SIGCONT.
            let _ = self.send(Signal::SIGCONT);
            self.frozen = false;
        }
    }

    /// Whether it runs, and each of its threads is stopped by a signal.
    pub fn is_stopped(&self) -> bool {
        let is_stopped = |thread: &Path| {
            let stat = std::fs::read_to_string(thread.join("stat")).unwrap_or_default();
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('T'))
        };
        let threads = self.pid().map(|pid| format!("/proc/{pid}/task"));
        let threads = threads.and_then(|threads| std::fs::read_dir(threads).ok());
        threads.is_some_and(|threads| {
            let mut threads = threads.flatten();
            threads.all(|thread| is_stopped(&thread.path()))
        })
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(&mut self) {
        self.last_exit = None;
        let Some(mut child) = self.child.take() else {
            return;
        };
        self.frozen = false;
        // A process that has ended by itself is only waited for.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Sends SIGTERM and waits for an orderly end.
    ///
    /// # Errors
    /// [`ProcessError`]
    pub async fn stop(&mut self, timeout: Duration) -> Result<(), ProcessError> {
        if !self.is_up() {
            return Ok(());
        }
        self.resume();
        self.send(Signal::SIGTERM)?;
        if self.ended_within(timeout).await.is_some() {
            return Ok(());
        }
        self.kill();
        Err(ProcessError::DoesNotEnd {
            name: self.spec.name.clone(),
            timeout,
        })
    }

    /// Waits for its end. `None` if it still runs after `timeout`.
    pub async fn ended_within(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.poll() {
                return Some(status);
            }
            if Instant::now() >= deadline || self.child.is_none() {
                return None;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Returns how it ended, once.
    pub fn poll(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok().flatten()?;
        self.child = None;
        self.frozen = false;
        self.last_exit = Some(status);
        Some(status)
    }

    /// Returns how it ended, until it is started again or killed through this handle.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.poll();
        self.last_exit
    }

    /// # Errors
    /// If it has ended, with the last lines of its log.
    pub fn expect_running(&mut self) -> Result<(), ProcessError> {
        match self.poll() {
            Some(status) => Err(ProcessError::EndedEarly {
                name: self.spec.name.clone(),
                status,
                log: self.log_tail(TAIL_LINES),
            }),
            None if self.is_up() => Ok(()),
            None => Err(ProcessError::NotRunning(self.spec.name.clone())),
        }
    }

    /// Closes its standard input and waits until it ends by itself, for ten seconds at most. Only a
    /// process of [`LaunchMethod::WithInput`] ends by that.
    pub fn close_input(&mut self) {
        let Some(child) = &mut self.child else { return };
        drop(child.stdin.take());
        let end = Instant::now() + EXIT_TIMEOUT;
        while Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Returns its whole log.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.spec.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        last_lines(&self.spec.log, lines)
    }
}

impl Drop for ManagedProcess {
    fn drop(&mut self) {
        if self.spec.launch == LaunchMethod::WithInput {
            self.close_input();
        }
        self.kill();
    }
}

/// Removes the environment variables of flags, which would override the command line.
pub fn remove_flag_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("ARGOSY_") && text != bugs::VARIABLE {
            command.env_remove(&name);
        }
    }
}

/// Ends a child: sends `signal`, and SIGKILL if it still runs after `timeout`. Returns its status.
///
/// # Errors
/// If it was waited for before, by its id.
pub fn end(child: &mut Child, signal: Signal, timeout: Duration) -> io::Result<ExitStatus> {
    let deadline = Instant::now() + timeout;
    if child.try_wait()?.is_none() {
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        // It was not waited for, so the pid is still valid.
        kill(Pid::from_raw(pid), signal)?;
    }
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            return child.wait();
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Returns the end of a log.
pub fn last_lines(log: &Path, lines: usize) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(16_384)..]).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Formats a status as "exit 1" or "signal 9".
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".to_owned(),
    }
}

#[cfg(test)]
mod tests;
