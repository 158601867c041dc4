//! `run`: a framework of one task. Places it, shows its output, ends as it ended.
//!
//! The parts: `job` and `checks` (what is wanted), `placer` (the scheduler), `waiting` (why nothing happens yet),
//! `attached` and `typing` (until the end), `ending` (how it ended). A change of leader is the client library's business.

mod attached;
mod checks;
mod ending;
mod job;
mod placer;
mod typing;
mod waiting;

use std::time::{Duration, Instant};

use argosy_client::connector::ConnectorConfig;
use argosy_client::scheduler::{Acknowledge, Driver, Runner, SchedulerConfig, SchedulerError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::exit::{Code, Ended, Failure};
use crate::grammar::Run;
use crate::operator::{self, Operator};
use crate::output::note;
use crate::random;

use attached::Attached;
use job::Job;
use placer::{Event, Placer};

/// Events on their way from the scheduler. The few that one task makes never fill it; if they did, the
/// oldest matter most, and the newest state comes again with the next event.
const EVENTS: usize = 1_024;
/// How long the first contact with the masters may take when no time is given.
const FIRST_CONTACT: Duration = Duration::from_secs(30);
/// How long asking why may take.
const ASK_WHY: Duration = Duration::from_secs(3);

pub(crate) async fn run(arguments: &Run) -> Ended {
    let job = Job::new(arguments, random::number()?)?;
    let masters = operator::masters_or_default(arguments.masters.as_ref());
    let (sender, events) = mpsc::channel(EVENTS);
    let config = SchedulerConfig {
        connector: ConnectorConfig::default(),
        info: job.framework(arguments),
        acknowledge: Acknowledge::AfterCallback,
        tick: Duration::ZERO,
        first_subscription: Some(
            arguments
                .timeout
                .unwrap_or(FIRST_CONTACT)
                .max(Duration::from_secs(1)),
        ),
        ..SchedulerConfig::new(masters.clone(), job.name())
    };
    let runner = Runner::new(config);
    let driver = runner.driver();
    let mut placer = Placer::new(job.clone(), sender);
    // A task of its own: writing output may block this one, the session must go on.
    let session =
        tokio::spawn(async move { runner.run(&mut placer, CancellationToken::new()).await });
    let session = Session {
        driver,
        events,
        ended: session,
        begun: Instant::now(),
    };
    let operator = Operator::to(masters, ASK_WHY);
    Attached::new(job, session, operator, arguments)
        .finish()
        .await
}

/// The scheduler at work.
struct Session {
    driver: Driver,
    events: mpsc::Receiver<Event>,
    ended: JoinHandle<Result<(), SchedulerError>>,
    begun: Instant,
}

/// Why the session ended although nobody asked it to, in words.
fn session_failure(error: &SchedulerError, name: &str) -> Failure {
    match error {
        SchedulerError::NotReached(error) => operator::read_failure(error.clone()),
        SchedulerError::Refused(refusal) => {
            operator::refusal_failure(refusal.code, refusal.message.clone())
        }
        SchedulerError::Removed(why) => Failure::new(
            Code::Failed,
            format!("{name} was removed while it ran, and its task is killed: {why}"),
        ),
        SchedulerError::Superseded(why) => {
            Failure::new(Code::Failed, format!("{name} was taken over: {why}"))
        }
    }
}

/// A line about the task, unless told to be quiet.
fn tell(arguments: &Run, name: &str, text: &str) {
    if !arguments.quiet {
        note(&format!("{name:<12} {text}"));
    }
}
