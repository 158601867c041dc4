//! `run` and `group run`: a framework of one task, or of one group. It places the job, shows its
//! output, and exits with its code.
//!
//! The parts: `job`, `checks` and `file` (the request), `members` (the progress of each task),
//! `scheduler`, `pending_reason` (why a task waits), `preparing` (until it starts), `attached` and
//! `stdin` (while the job runs), `notes` (lines about it), `outcome` (the result). The client
//! library handles a change of leader.

mod attached;
mod checks;
mod command_line;
mod file;
mod job;
mod members;
mod notes;
mod outcome;
mod pending_reason;
mod preparing;
mod scheduler;
mod shortage;
mod signals;
mod stdin;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use argosy_client::Masters;
use argosy_client::scheduler::{
    AcknowledgeMode, SchedulerConfig, SchedulerDriver, SchedulerError, SchedulerRunner,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::args::{GroupRun, Run};
use crate::contexts::ChosenCluster;
use crate::exit::{Failure, FailureCode, VerbResult};
use crate::operator::{self, ClusterClient};
use crate::random;
use crate::transport::ClientTransport;

use attached::AttachedRun;
pub(crate) use file::GroupFile;
use job::Job;
use scheduler::{JobScheduler, RunEvent};

/// Capacity of the event channel from the scheduler. The few events of one job never fill it. If
/// they did, newer ones would be dropped; the newest state comes again with the next event.
const EVENTS: usize = 1_024;
/// Timeout of the first contact with the masters if `--timeout` is not given.
const CONTACT_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout of a request for the pending reason.
const REASON_TIMEOUT: Duration = Duration::from_secs(3);

/// Options of a job that do not concern its content.
struct RunOptions {
    detach: bool,
    quiet: bool,
    timeout: Option<Duration>,
    /// Time from TERM to KILL, for messages.
    grace: Duration,
    /// Whether standard input is forwarded to the task.
    interactive: bool,
    tty: bool,
}

pub(crate) async fn run(arguments: &Run) -> VerbResult {
    let job = Job::new(arguments, random::number()?)?;
    let options = RunOptions {
        detach: arguments.detach,
        quiet: arguments.quiet,
        timeout: arguments.timeout,
        grace: arguments.grace,
        interactive: arguments.interactive,
        tty: arguments.tty,
    };
    let cluster = ChosenCluster::of(&arguments.cluster)?;
    perform(job, options, &arguments.role, cluster).await
}

/// Runs the tasks of a file as one group.
pub(crate) async fn run_group(arguments: &GroupRun) -> VerbResult {
    let path = arguments.file.display().to_string();
    let read = match path.as_str() {
        "-" => std::io::read_to_string(std::io::stdin()),
        _ => std::fs::read_to_string(&arguments.file),
    };
    let text =
        read.map_err(|error| Failure::usage(format!("{path}: it cannot be read: {error}")))?;
    let file = GroupFile::read(&path, &text)?;
    let job = Job::of_group(&file.group, &file.tasks, &arguments.role);
    let job = job.map_err(|failure| Failure {
        message: format!("{path}: {}", failure.message),
        ..failure
    })?;
    let options = RunOptions {
        detach: arguments.detach,
        quiet: arguments.quiet,
        timeout: arguments.timeout,
        grace: file.tasks.iter().map(|task| task.grace).sum(),
        interactive: false,
        tty: false,
    };
    let cluster = ChosenCluster::of(&arguments.cluster)?;
    perform(job, options, &arguments.role, cluster).await
}

async fn perform(
    job: Job,
    options: RunOptions,
    role: &str,
    ChosenCluster { masters, transport }: ChosenCluster,
) -> VerbResult {
    let (sender, events) = mpsc::channel(EVENTS);
    let config = SchedulerConfig {
        connector: transport.connector(),
        info: job.framework(role, options.detach),
        acknowledge: AcknowledgeMode::AfterCallback,
        tick: Duration::ZERO,
        first_subscription: Some(
            options
                .timeout
                .unwrap_or(CONTACT_TIMEOUT)
                .max(Duration::from_secs(1)),
        ),
        ..SchedulerConfig::new(masters.clone(), job.name())
    };
    let runner = SchedulerRunner::new(config);
    let driver = runner.driver();
    let mut scheduler = JobScheduler::new(job.clone(), sender);
    // A separate task: writing output may block the current one, and the session must continue.
    let session =
        tokio::spawn(async move { runner.run(&mut scheduler, CancellationToken::new()).await });
    let session = Session {
        driver,
        events,
        ended: session,
        started: Instant::now(),
    };
    let operator = ClusterClient::to(masters.clone(), REASON_TIMEOUT, transport.clone());
    let waits = options.timeout.is_some();
    let attached = AttachedRun::new(job, session, operator, options);
    tokio::select! {
        ended = attached.finish() => ended,
        failure = no_master_listens(masters, transport), if !waits => Err(failure),
    }
}

/// Returns only if every master refuses the connection now. The session would wait for masters that
/// are starting.
async fn no_master_listens(masters: Masters, transport: ClientTransport) -> Failure {
    let operator = ClusterClient::of_running(masters, REASON_TIMEOUT, transport);
    match operator.none_listens().await {
        Some(failure) => failure,
        None => std::future::pending().await,
    }
}

/// A running scheduler session.
struct Session {
    driver: SchedulerDriver,
    events: mpsc::Receiver<RunEvent>,
    ended: JoinHandle<Result<(), SchedulerError>>,
    started: Instant,
}

/// Returns why the session ended without a request.
fn session_failure(error: &SchedulerError, name: &str) -> Failure {
    match error {
        SchedulerError::NotReached(error) => operator::read_failure(error.clone()),
        SchedulerError::Refused(refusal) => {
            operator::refusal_failure(refusal.code, refusal.message.clone())
        }
        SchedulerError::Removed(why) => Failure::new(
            FailureCode::Failed,
            format!("{name} was removed while it ran, and its task is killed: {why}"),
        ),
        SchedulerError::Superseded(why) => {
            Failure::new(FailureCode::Failed, format!("{name} was taken over: {why}"))
        }
    }
}
