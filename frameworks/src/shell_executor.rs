//! An executor that runs the command line of each of its tasks as a child process.
//!
//! It is the smallest example of an executor, whose tasks have no container each. Only processes
//! separate them, and they start in the executor's own directory.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use argosy_client::executor::{Executor, ExecutorDriver, TaskName, TaskStateChange};
use argosy_proto::v1;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The most requests to end one task that wait.
const KILLS: usize = 16;

/// An executor that runs tasks as children. It must be used in a tokio runtime.
#[derive(Debug, Default)]
pub struct ShellExecutor {
    /// The channels that request the end of a task within a grace period.
    running: BTreeMap<TaskName, mpsc::Sender<Duration>>,
}

impl Executor for ShellExecutor {
    fn launch(&mut self, name: TaskName, spec: v1::TaskSpec, driver: &ExecutorDriver) {
        let (wish, wished) = mpsc::channel(KILLS);
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
            // A closed channel means that the task has ended; a full one, that it is about to.
            let _ = wish.try_send(grace);
        }
    }
}

async fn run(
    name: TaskName,
    spec: v1::TaskSpec,
    wished: mpsc::Receiver<Duration>,
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
    let group = child.id().and_then(|id| i32::try_from(id).ok());
    let ended = ended(&mut child, group, wished).await;
    // What the command has left behind ends with it.
    signal(group, Signal::SIGKILL);
    driver.report(wait_for_exit(name, ended)).await;
}

/// Waits for the end of a command, and returns whether that was requested. A request sends TERM to
/// the process group, and KILL once its grace period is over. Of several the shortest counts.
async fn ended(
    child: &mut Child,
    group: Option<i32>,
    mut wished: mpsc::Receiver<Duration>,
) -> (std::io::Result<std::process::ExitStatus>, bool) {
    let mut is_requested = false;
    let mut deadline: Option<Instant> = None;
    loop {
        let late = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = child.wait() => return (ended, is_requested),
            Some(grace) = wished.recv() => {
                if !is_requested {
                    signal(group, Signal::SIGTERM);
                }
                is_requested = true;
                // A grace period beyond what a clock can count has no end.
                let at = Instant::now().checked_add(grace);
                deadline = deadline.into_iter().chain(at).min();
            }
            () = late => {
                signal(group, Signal::SIGKILL);
                deadline = None;
            }
        }
    }
}

fn signal(group: Option<i32>, signal: Signal) {
    if let Some(group) = group {
        // All of it may just have ended.
        let _ = killpg(Pid::from_raw(group), signal);
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
