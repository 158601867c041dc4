//! The agent's launcher, started again whenever it is gone.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use argosy_isolation::unpack::{Job, Unpacking};
use argosy_isolation::{Container, LaunchError, Launcher, Spec, Tree};

/// How to start the launcher: a program that calls `argosy_isolation::launcher::run_from_fd` first of all.
#[derive(Debug, Clone)]
pub struct LauncherCommand {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// The launcher. Its calls may block while it is busy.
pub(super) struct Launching {
    command: LauncherCommand,
    tree: Option<Tree>,
    /// A lock, since requests come from many blocking threads and one socket leads to it. `None` once the agent stops.
    launcher: Mutex<Option<Launcher>>,
}

impl Launching {
    pub(super) fn start(command: LauncherCommand, tree: Option<Tree>) -> Result<Self, LaunchError> {
        let launcher = command.spawn(tree.as_ref())?;
        Ok(Self {
            command,
            tree,
            launcher: Mutex::new(Some(launcher)),
        })
    }

    /// Has a container made, in this network namespace if one is given. If the launcher was gone the next request finds
    /// a new one; whether this one had arrived is for the container's folder to say.
    pub(super) fn launch(
        &self,
        spec: &Spec,
        namespace: Option<BorrowedFd<'_>>,
    ) -> Result<Container, LaunchError> {
        self.ask(|launcher| match namespace {
            Some(namespace) => launcher.launch_joined(spec, namespace),
            None => launcher.launch(spec),
        })
    }

    /// Has an archive unpacked into a folder.
    pub(super) fn unpack(
        &self,
        job: &Job,
        archive: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
    ) -> Result<Unpacking, LaunchError> {
        match self.ask(|launcher| launcher.unpack(job, archive, target)) {
            // A process without its request does nothing, so that it may be asked again.
            Err(LaunchError::Gone { .. }) => {
                self.ask(|launcher| launcher.unpack(job, archive, target))
            }
            answer => answer,
        }
    }

    /// Ends it, for good.
    pub(super) fn end(&self) {
        drop(self.lock().take());
    }

    fn ask<T>(
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
            match self.command.spawn(self.tree.as_ref()) {
                Ok(fresh) => *launcher = fresh,
                Err(error) => tracing::error!(why = crate::error::sentence(&error), "no launcher"),
            }
        }
        answer
    }

    fn lock(&self) -> MutexGuard<'_, Option<Launcher>> {
        self.launcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LauncherCommand {
    fn spawn(&self, tree: Option<&Tree>) -> Result<Launcher, LaunchError> {
        let mut command = Command::new(&self.program);
        // Which process it is in a list, whatever the program is called.
        command.arg0("argosy-launcher").args(&self.arguments);
        Launcher::spawn(command, tree)
    }
}
