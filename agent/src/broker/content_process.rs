//! The process of the content service: at most one at a time, and each with a number.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use argosy_content::service::{ENVIRONMENT, NAME, ServiceCommand};
use argosy_isolation::service;

use crate::broker_client::request::ContentProcess;
use crate::error::error_chain;

pub(super) struct ContentProcesses {
    command: ServiceCommand,
    /// A lock, since any thread may request it.
    current: Mutex<CurrentProcess>,
}

#[derive(Default)]
struct CurrentProcess {
    /// The number of starts.
    generation: u64,
    process: Option<service::ChildProcess>,
}

impl ContentProcesses {
    pub(super) fn new(command: ServiceCommand) -> Self {
        Self {
            command,
            current: Mutex::default(),
        }
    }

    /// Starts a process in this cgroup; replaces a running one. Returns it with its socket.
    pub(super) fn start(&self, group: Option<&Path>) -> Result<(ContentProcess, OwnedFd), String> {
        self.end_all();
        let mut executed = Command::new(&self.command.program);
        executed.args(&self.command.arguments);
        let spawned = service::spawn(&executed, NAME, &ENVIRONMENT, group);
        let (process, packets) = spawned.map_err(|error| error_chain(&error))?;
        let pid = process.id();
        let (replaced, generation) = {
            let mut current = self.current();
            current.generation += 1;
            (current.process.replace(process), current.generation)
        };
        // Of a start at the same time.
        stop(replaced);
        Ok((ContentProcess { pid, generation }, packets.into_socket()))
    }

    /// Ends the process of this number, unless it was replaced.
    pub(super) fn end(&self, generation: u64) {
        let ended = {
            let mut current = self.current();
            let is_current = current.generation == generation;
            is_current.then(|| current.process.take()).flatten()
        };
        stop(ended);
    }

    /// Ends the present process, if there is one.
    pub(super) fn end_all(&self) {
        let ended = self.current().process.take();
        stop(ended);
    }

    fn current(&self) -> MutexGuard<'_, CurrentProcess> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the end of a process, and kills it after a second.
fn stop(process: Option<service::ChildProcess>) {
    if let Some(process) = process {
        service::stop(process);
    }
}
