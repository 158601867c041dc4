//! The agent's launcher process, which is restarted when it has ended.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argosy_host::{ContainerId, ProcessId};
use argosy_isolation::unpack::{UnpackHandle, UnpackJob};
use argosy_isolation::{
    CgroupTree, Container, LaunchDescriptors, LaunchError, LaunchSpec, Launcher,
};
use tokio::time::MissedTickBehavior;

use crate::broker_client::BrokerClient;

/// The interval of liveness checks of the launcher.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The command of the launcher: a program that calls `argosy_isolation::launcher::run_from_fd`
/// first of all.
#[derive(Debug, Clone)]
pub struct LauncherCommand {
    /// The executable.
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

/// The launcher. Its calls may block while it is busy.
pub(crate) struct LauncherProcess {
    command: LauncherCommand,
    tree: Option<CgroupTree>,
    /// A lock, since many blocking threads send requests over one socket. `None` once the agent
    /// stops.
    launcher: Mutex<Option<Launcher>>,
    /// Number of replaced launchers.
    replacements: AtomicU64,
    /// A lock for the same reason, taken after that of the launcher.
    supervisors: Mutex<Supervisors>,
}

/// The running supervisors of this launcher and of earlier ones, by their containers.
#[derive(Default)]
struct Supervisors {
    by_container: BTreeMap<ContainerId, ProcessId>,
    /// Whether some were added since the last cleanup.
    has_new: bool,
}

impl Supervisors {
    fn add_new(&mut self, launcher: &mut Launcher) {
        let made = launcher.supervisors();
        self.has_new |= !made.is_empty();
        self.by_container.extend(made);
    }

    /// Forgets those that have ended, at a cost that follows the number of launches.
    fn remove_ended(&mut self) {
        if std::mem::take(&mut self.has_new) {
            self.by_container
                .retain(|_, process| !matches!(process.open(), Ok(None)));
        }
    }
}

impl LauncherProcess {
    pub(crate) fn start(
        command: LauncherCommand,
        tree: Option<CgroupTree>,
    ) -> Result<Self, LaunchError> {
        let launcher = command.spawn(tree.as_ref())?;
        Ok(Self {
            command,
            tree,
            launcher: Mutex::new(Some(launcher)),
            replacements: AtomicU64::new(0),
            supervisors: Mutex::default(),
        })
    }

    /// Requests a container, with these descriptors. If the launcher has ended,
    /// the next request finds a new one; the container's directory shows whether this request had
    /// arrived.
    pub(crate) fn launch(
        &self,
        spec: &LaunchSpec,
        descriptors: LaunchDescriptors<'_>,
    ) -> Result<Container, LaunchError> {
        self.request(|launcher| launcher.launch_with(spec, descriptors))
    }

    /// Requests that an archive is unpacked into a directory.
    pub(crate) fn unpack(
        &self,
        job: &UnpackJob,
        archive: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
    ) -> Result<UnpackHandle, LaunchError> {
        match self.request(|launcher| launcher.unpack(job, archive, target)) {
            // A process without its request does nothing, so that the request can be repeated.
            Err(LaunchError::Gone { .. }) => {
                self.request(|launcher| launcher.unpack(job, archive, target))
            }
            answer => answer,
        }
    }

    /// Replaces a launcher that has ended, is stopped or hangs, and returns the number of
    /// replacements so far. Its unread requests fail, as their containers show.
    pub(crate) fn replace_if_dead(&self) -> u64 {
        // The thread that holds the lock sends a request, and detects a failure itself.
        if let Ok(mut present) = self.launcher.try_lock()
            && let Some(launcher) = present.as_mut()
        {
            if !launcher.is_responsive() {
                self.replace(launcher);
            }
            let mut supervisors = self.supervisors();
            supervisors.add_new(launcher);
            supervisors.remove_ended();
        }
        self.replacements.load(Ordering::Relaxed)
    }

    /// Kills the supervisor of a container that it has not claimed, and never will: no file names
    /// its process. Returns whether none is left, as far as launchers of this agent have reported.
    pub(crate) fn end_supervisor(
        &self,
        container: &ContainerId,
        timeout: Duration,
    ) -> io::Result<bool> {
        if let Some(launcher) = self.lock().as_mut() {
            self.supervisors().add_new(launcher);
        }
        let supervisor = self.supervisors().by_container.get(container).copied();
        supervisor.map_or(Ok(true), |supervisor| supervisor.kill(timeout))
    }

    /// Ends the launcher permanently.
    pub(crate) fn end(&self) {
        drop(self.lock().take());
    }

    fn request<T>(
        &self,
        request: impl FnOnce(&mut Launcher) -> Result<T, LaunchError>,
    ) -> Result<T, LaunchError> {
        let mut present = self.lock();
        let Some(launcher) = present.as_mut() else {
            let source = io::Error::other("the agent is stopping");
            return Err(LaunchError::Gone { source });
        };
        let answer = request(launcher);
        if let Err(LaunchError::Gone { .. }) = &answer {
            self.replace(launcher);
        }
        answer
    }

    fn replace(&self, launcher: &mut Launcher) {
        let pid = launcher.pid();
        match self.command.spawn(self.tree.as_ref()) {
            Ok(fresh) => {
                self.supervisors().add_new(launcher);
                *launcher = fresh;
                self.replacements.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    pid,
                    "the launcher accepted no requests; another one is started"
                );
            }
            Err(error) => {
                let why = crate::error::error_chain(&error);
                tracing::error!(
                    pid,
                    why,
                    "the launcher accepts no requests, and no other can be started"
                );
            }
        }
    }

    fn supervisors(&self) -> MutexGuard<'_, Supervisors> {
        self.supervisors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Launcher>> {
        self.launcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces a launcher that no longer accepts requests, even when there are none.
pub(super) async fn watch(broker: BrokerClient) {
    let mut ticks = tokio::time::interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = 0;
    loop {
        ticks.tick().await;
        let broker = broker.clone();
        let check = tokio::task::spawn_blocking(move || broker.count_launchers());
        let replaced = check.await.expect("checking the launcher never panics");
        // Without a broker the agent ends.
        let replaced = replaced.unwrap_or(known);
        let more = replaced.saturating_sub(known);
        metrics::counter!("argosy_agent_launchers_replaced_total").increment(more);
        known = replaced;
    }
}

impl LauncherCommand {
    fn spawn(&self, tree: Option<&CgroupTree>) -> Result<Launcher, LaunchError> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        Launcher::spawn(&command, tree)
    }
}
