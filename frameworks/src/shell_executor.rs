//! An executor that runs the command line of each of its tasks as a child process.
//!
//! It is the smallest example of an executor, whose tasks have no container each. Only processes
//! separate them, and they start in the executor's own directory.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use argosy_client::executor::{Executor, ExecutorDriver, TaskName, TaskStateChange};
use argosy_proto::v1;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// An executor that runs tasks as children. It must be used in a tokio runtime.
#[derive(Debug, Default)]
pub struct ShellExecutor {
    /// The channels that request the end of a task. Each has capacity for one: a repeated request
    /// has no effect.
    running: BTreeMap<TaskName, mpsc::Sender<Duration>>,
}

impl Executor for ShellExecutor {
    fn launch(&mut self, name: TaskName, spec: v1::TaskSpec, driver: &ExecutorDriver) {
        let (wish, wished) = mpsc::channel(1);
        self.running.retain(|_, wish| !wish.is_closed());
        self.running.insert(name.clone(), wish);
        let driver = driver.clone();
        // One tokio task per child waits for the child's end and for the request to end it.
        tokio::spawn(async move { run(name, spec, wished, &driver).await });
    }

    /// Echoes a message.
    fn message(&mut self, data: Vec<u8>, driver: &ExecutorDriver) {
        driver.message(data);
    }

    fn kill(&mut self, name: &TaskName, grace: Duration, _: &ExecutorDriver) {
        if let Some(wish) = self.running.get(name) {
            // A full channel means that the task is being ended, a closed one that it has ended.
            let _ = wish.try_send(grace);
        }
    }
}

async fn run(
    name: TaskName,
    spec: v1::TaskSpec,
    mut wished: mpsc::Receiver<Duration>,
    driver: &ExecutorDriver,
) {
    let mut command = match spec.argv.split_first() {
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments);
            command
        }
        None => {
            let mut command = Command::new("/bin/sh");
            command.arg("-c").arg(&spec.shell);
            command
        }
    };
    command
        .envs(&spec.environment)
        .env("ARGOSY_TASK_ID", &name.task_id)
        .env("ARGOSY_ORDER", name.order.to_string())
        .stdin(Stdio::null())
        .process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let text = format!("its command cannot be started: {error}");
            let failed = v1::TaskState::Failed;
            return driver.report(update(name, failed, text, None)).await;
        }
    };
    driver.running(name.clone()).await;
    let ended = tokio::select! {
        ended = child.wait() => (ended, false),
        Some(grace) = wished.recv() => (end(&mut child, grace).await, true),
    };
    driver.report(wait_for_exit(name, ended)).await;
}

/// Sends TERM, and KILL after the grace period, to the whole process group.
async fn end(child: &mut Child, grace: Duration) -> std::io::Result<std::process::ExitStatus> {
    signal(child, Signal::SIGTERM);
    match tokio::time::timeout(grace, child.wait()).await {
        Ok(ended) => ended,
        Err(_) => {
            signal(child, Signal::SIGKILL);
            child.wait().await
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = pid {
        // It may just have ended; then `wait` returns its status.
        let _ = kill(Pid::from_raw(-pid), signal);
    }
}

fn wait_for_exit(
    name: TaskName,
    (ended, killed): (std::io::Result<std::process::ExitStatus>, bool),
) -> TaskStateChange {
    use std::os::unix::process::ExitStatusExt;
    let status = match ended {
        Ok(status) => status,
        Err(error) => {
            let text = format!("its result is unknown: {error}");
            return update(name, v1::TaskState::Failed, text, None);
        }
    };
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => Some(v1::exit::How::Code(code)),
        (None, Some(signal)) => Some(v1::exit::How::Signal(signal)),
        (None, None) => None,
    };
    let state = match (killed, status.success()) {
        (true, _) => v1::TaskState::Killed,
        (false, true) => v1::TaskState::Finished,
        (false, false) => v1::TaskState::Failed,
    };
    let exit = how.map(|how| v1::Exit { how: Some(how) });
    update(name, state, status.to_string(), exit)
}

fn update(
    name: TaskName,
    state: v1::TaskState,
    text: String,
    exit: Option<v1::Exit>,
) -> TaskStateChange {
    TaskStateChange {
        name,
        state,
        text,
        exit,
    }
}
