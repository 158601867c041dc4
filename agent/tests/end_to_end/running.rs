//! Running agents: in this process, or each in its own.
//!
//! They do not use `testbed`: no cluster is started, a separate agent is this test program with
//! hooks, and its output is that of the test.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use argosy_agent::RunError;
use rustix::fs::{FlockOperation, flock};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::children::{child_of, entries};
use crate::master::TIMEOUT;

/// The file next to an agent's directory with the address of its API, if it is a separate process.
pub(crate) const API: &str = "api";

/// An agent that is a separate process. Dropping it is `kill -9`, so that a failed test leaves
/// none.
pub(crate) struct AgentProcess(pub(crate) Child, pub(crate) PathBuf);

impl AgentProcess {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Returns the containers that are listed now.
    pub(crate) async fn containers(&self) -> Vec<serde_json::Value> {
        let api = content(&self.1.with_file_name(API)).await;
        containers(api.parse().unwrap()).await
    }

    /// Terminates an agent that may be divided, so that it clears its host, and waits for its exit.
    pub(crate) async fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.pid().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let exited = tokio::time::timeout(TIMEOUT, self.exited()).await;
        exited.expect("the agent does not end");
    }

    /// Waits until it has exited.
    pub(crate) async fn exited(&mut self) {
        while self.0.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        get(self.api().await, path).await
    }

    pub(crate) async fn api(&self) -> SocketAddr {
        content(&self.1.with_file_name(API)).await.parse().unwrap()
    }

    /// Returns the process that has kept root.
    pub(crate) fn broker(&self) -> u32 {
        child_of(self.pid(), "argosy-broker")
    }

    /// Waits until no container is left.
    pub(crate) async fn is_clear(&self) {
        let api = content(&self.1.with_file_name(API)).await;
        is_clear(api.parse().unwrap()).await;
    }

    /// Returns the kernel wait states of the agent and its launcher, and the states of its
    /// unfinished containers.
    pub(crate) fn list_leftovers(&self) -> String {
        let own = self.0.id();
        let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
        let mut text = String::new();
        let pids = children.unwrap_or_default();
        for pid in pids.split_whitespace().chain([own.to_string().as_str()]) {
            for thread in entries(&format!("/proc/{pid}/task")) {
                let word = |name: &str| std::fs::read_to_string(thread.join(name));
                let (name, wait) = (word("comm"), word("wchan"));
                let _ = writeln!(
                    text,
                    "{}: {} in {}",
                    thread.display(),
                    name.unwrap_or_default().trim(),
                    wait.unwrap_or_default()
                );
            }
        }
        for container in entries(&self.1.join("containers").display().to_string()) {
            if !container.join("exit.json").exists() {
                let handle = std::fs::read_to_string(container.join("handle.json"));
                let _ = writeln!(text, "{}: {handle:?}", container.display());
            }
        }
        text
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        // A process that has exited is only waited for.
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

/// Prints the reason of its end: a test may wait for its effects.
pub(crate) async fn log_error(
    running: impl Future<Output = Result<(), RunError>>,
) -> Result<(), RunError> {
    let ended = running.await;
    if let Err(error) = &ended {
        eprintln!("the agent has ended: {error:?}");
    }
    ended
}

/// Waits until the lock of an ended agent is free. A child that another agent of this process was
/// creating at its end holds it, too, until it executes its own program. The next agent would be
/// refused: the holder that the file names, this process, is running.
async fn is_unlocked(lock: &Path) {
    let Ok(file) = std::fs::File::open(lock) else {
        return;
    };
    let deadline = Instant::now() + TIMEOUT;
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        assert!(Instant::now() < deadline, "{} is locked", lock.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Explicitly: a child that is being created has this descriptor, too.
    flock(&file, FlockOperation::Unlock).unwrap();
}

/// A running agent.
pub(crate) struct Agent {
    pub(crate) api: SocketAddr,
    pub(crate) running: JoinHandle<Result<(), RunError>>,
    pub(crate) stop: CancellationToken,
    pub(crate) end_tasks: CancellationToken,
    /// The file that it locks.
    pub(crate) lock: PathBuf,
}

impl Agent {
    /// Stops it; its tasks continue.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.ended().await.unwrap();
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(self) -> Result<(), RunError> {
        let ended = tokio::time::timeout(TIMEOUT, self.running).await;
        let ended = ended.expect("the agent does not end").unwrap();
        // One that could not start may have found the lock of another one.
        if ended.is_ok() {
            is_unlocked(&self.lock).await;
        }
        ended
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        get(self.api, path).await
    }

    /// Returns the containers that are listed now.
    pub(crate) async fn containers(&self) -> Vec<serde_json::Value> {
        containers(self.api).await
    }

    /// Returns the counter of this name, with its labels, over all agents of this process; 0 if it
    /// is missing.
    pub(crate) async fn counted(&self, name: &str) -> u64 {
        let (_, text) = self.get("/metrics").await;
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value.map_or(0, |value| value.trim().parse().unwrap())
    }

    /// Waits until no container is left.
    pub(crate) async fn is_clear(&self) {
        is_clear(self.api).await;
    }
}

/// An agent in this process that keeps root, or a separate process that gives it up.
pub(crate) enum AnyAgent {
    InProcess(Agent),
    Brokered(AgentProcess),
}

impl AnyAgent {
    /// Stops it; its tasks continue.
    pub(crate) async fn stop(self) {
        match self {
            Self::InProcess(agent) => agent.stop().await,
            Self::Brokered(process) => process.stop().await,
        }
    }

    /// Waits until no container is left.
    pub(crate) async fn is_clear(&self) {
        match self {
            Self::InProcess(agent) => agent.is_clear().await,
            Self::Brokered(process) => process.is_clear().await,
        }
    }
}

async fn get(api: SocketAddr, path: &str) -> (u16, String) {
    let answered = async {
        let answer = reqwest::get(format!("http://{api}{path}")).await?;
        Ok::<_, reqwest::Error>((answer.status().as_u16(), answer.text().await?))
    };
    let answered = tokio::time::timeout(TIMEOUT, answered).await;
    answered
        .unwrap_or_else(|_| panic!("{path} is not answered"))
        .unwrap()
}

async fn containers(api: SocketAddr) -> Vec<serde_json::Value> {
    let (_, text) = get(api, "/v1/containers").await;
    let mut list: serde_json::Value = serde_json::from_str(&text).unwrap();
    list["containers"]
        .as_array_mut()
        .map(std::mem::take)
        .unwrap()
}

async fn is_clear(api: SocketAddr) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let left = containers(api).await;
        if left.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{} containers are left: {}",
            left.len(),
            left[0]
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a file exists, and returns its content.
pub(crate) async fn content(path: &Path) -> String {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Ok(text) = std::fs::read_to_string(path)
            && !text.is_empty()
        {
            return text;
        }
        assert!(
            Instant::now() < deadline,
            "{} does not come",
            path.display()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
