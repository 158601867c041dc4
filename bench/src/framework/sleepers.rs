//! Tasks that sleep until they are killed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use argosy_client::scheduler::{
    CallOutcome, CallResult, Scheduler, SchedulerDriver, SchedulerRunner, is_terminal,
};
use argosy_proto::v1;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{config, room, task};
use crate::cluster::MasterAccess;

/// Time without a start or end after which the run fails.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval at which the request to end is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Maximum number of unanswered calls, below the limit of the client library.
const OPEN_CALLS: u32 = 1_000;

/// The code of a call whose offer was too old when the call was applied.
const EXPIRED: &str = "offer-expired";

/// The progress of the tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
enum SleeperPhase {
    Launching,
    /// After so long, and so many launches that were repeated in a newer offer.
    AllRun(Duration, u32),
    AllEnded(Duration),
    Failed(String),
}

struct SleeperScheduler {
    /// The network of each; `None` for the default.
    network: Option<v1::Network>,
    total: u32,
    launched: u32,
    /// Tasks whose offer had expired before their launch was applied; they go into a later offer.
    retries: Vec<u32>,
    /// The number of such launches.
    expired: u32,
    /// Offers that wait for an answer to earlier calls.
    waiting: VecDeque<v1::Offer>,
    open_calls: u32,
    running: u32,
    ended: u32,
    started: Instant,
    last_progress: Instant,
    /// Time at which the end was requested.
    end_requested: Option<Instant>,
    phase: watch::Sender<SleeperPhase>,
    end: watch::Receiver<bool>,
}

impl SleeperScheduler {
    fn launch(&mut self, driver: &SchedulerDriver) {
        while self.open_calls < OPEN_CALLS {
            let Some(offer) = self.waiting.pop_front() else {
                return;
            };
            let numbers = self.next_tasks(room(&offer));
            if numbers.is_empty() {
                driver.decline(&offer, None);
                continue;
            }
            let tasks = numbers.into_iter().map(|number| self.task(number));
            let tasks = tasks.collect();
            self.open_calls += 1;
            drop(driver.accept(&offer, tasks));
        }
    }

    /// The tasks to launch next, at most so many.
    fn next_tasks(&mut self, most: usize) -> Vec<u32> {
        let repeated = self
            .retries
            .split_off(self.retries.len().saturating_sub(most));
        let left = (self.total - self.launched) as usize;
        let new = (most - repeated.len()).min(left) as u32;
        let first = self.launched;
        self.launched += new;
        repeated.into_iter().chain(first..first + new).collect()
    }

    fn task(&self, number: u32) -> v1::TaskSpec {
        let command = ["/bin/sleep", "1000000"];
        task(name(number), &command, self.network.as_ref())
    }

    fn fail(&mut self, driver: &SchedulerDriver, why: String) {
        self.phase.send_replace(SleeperPhase::Failed(why));
        drop(driver.teardown());
    }
}

const PREFIX: &str = "sleeper-";

fn name(number: u32) -> String {
    format!("{PREFIX}{number}")
}

fn number(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

impl Scheduler for SleeperScheduler {
    fn offers(&mut self, driver: &SchedulerDriver, offers: Vec<v1::Offer>) {
        self.waiting.extend(offers);
        self.launch(driver);
    }

    fn rescinded(&mut self, _: &SchedulerDriver, offer_id: &str, _: &str) {
        self.waiting.retain(|offer| offer.offer_id != offer_id);
    }

    fn update(&mut self, driver: &SchedulerDriver, status: &v1::TaskStatus) {
        self.last_progress = Instant::now();
        let state = status.state();
        if state == v1::TaskState::Running && self.end_requested.is_none() {
            self.running += 1;
            if self.running == self.total {
                let repeated = self.expired;
                (self.phase).send_replace(SleeperPhase::AllRun(self.started.elapsed(), repeated));
            }
        } else if is_terminal(state) {
            let Some(ending) = self
                .end_requested
                .filter(|_| state == v1::TaskState::Killed)
            else {
                let why = format!("{} is {state:?}: {}", status.task_id, status.message);
                return self.fail(driver, why);
            };
            self.ended += 1;
            if self.ended == self.total {
                self.phase
                    .send_replace(SleeperPhase::AllEnded(ending.elapsed()));
                drop(driver.teardown());
            }
        }
    }

    fn answered(&mut self, driver: &SchedulerDriver, answer: &CallResult) {
        self.open_calls = self.open_calls.saturating_sub(1);
        let expired =
            matches!(&answer.outcome, CallOutcome::Refused(refusal) if refusal.reason == EXPIRED);
        let refused = answer.not_launched();
        match refused.first() {
            Some(_) if expired => {
                let numbers = refused.iter().filter_map(|(id, _)| number(id));
                self.retries.extend(numbers);
                self.expired += 1;
            }
            Some((task, why)) => {
                let why = format!("{task} was not launched: {why}");
                return self.fail(driver, why);
            }
            None => {}
        }
        self.launch(driver);
    }

    fn tick(&mut self, driver: &SchedulerDriver) {
        let waits = self.running < self.total || self.end_requested.is_some();
        if waits && self.last_progress.elapsed() > STALL_TIMEOUT {
            let why = format!(
                "nothing happened for {STALL_TIMEOUT:?}; of {} there ran {} and ended {}",
                self.total, self.running, self.ended
            );
            return self.fail(driver, why);
        }
        if self.end_requested.is_none() && *self.end.borrow() {
            self.last_progress = Instant::now();
            self.end_requested = Some(self.last_progress);
            for number in 0..self.total {
                drop(driver.kill(&name(number), None));
            }
        }
    }
}

/// Sleeping tasks. They end with their framework, which ends with this value.
pub(crate) struct SleepingTasks {
    /// Time from before the framework's first call until the last of them was known to run.
    pub(crate) duration: Duration,
    /// Launches that were repeated, since their offer had expired before they were applied.
    pub(crate) expired: u32,
    phase: watch::Receiver<SleeperPhase>,
    end: watch::Sender<bool>,
    stop: CancellationToken,
    run: JoinHandle<Result<()>>,
}

/// Starts `total` of them in this network, or in the default one, and waits until all run.
///
/// # Errors
/// If one ends, or nothing happens for a minute.
pub(crate) async fn sleepers(
    masters: &MasterAccess,
    total: u32,
    network: Option<v1::Network>,
) -> Result<SleepingTasks> {
    let (stage, mut watched) = watch::channel(SleeperPhase::Launching);
    let (end, ends) = watch::channel(false);
    let now = Instant::now();
    let mut sleepers = SleeperScheduler {
        network,
        total,
        launched: 0,
        retries: Vec::new(),
        expired: 0,
        waiting: VecDeque::new(),
        open_calls: 0,
        running: 0,
        ended: 0,
        started: now,
        last_progress: now,
        end_requested: None,
        phase: stage,
        end: ends,
    };
    let mut config = config(masters, "bench-sleepers");
    config.tick = POLL_INTERVAL;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let run = tokio::spawn(async move {
        let run = SchedulerRunner::new(config)
            .run(&mut sleepers, stopped)
            .await;
        run.map(drop).context("the framework ended")
    });
    let reached = match next(&mut watched, SleeperPhase::Launching).await {
        Ok(reached) => reached,
        Err(error) => {
            // If the framework has ended, it knows more.
            if watched.has_changed().is_err() {
                run.await.context("the framework panicked")??;
            }
            return Err(error);
        }
    };
    match reached {
        SleeperPhase::AllRun(took, expired) => Ok(SleepingTasks {
            duration: took,
            expired,
            phase: watched,
            end,
            stop,
            run,
        }),
        other => bail!("the tasks did not start: {other:?}"),
    }
}

impl SleepingTasks {
    /// Kills all, and returns the time until the last is known to have ended.
    ///
    /// # Errors
    /// If one ends otherwise, or nothing happens for a minute.
    pub(crate) async fn end(mut self) -> Result<Duration> {
        self.end.send_replace(true);
        let took = match next(
            &mut self.phase,
            SleeperPhase::AllRun(self.duration, self.expired),
        )
        .await?
        {
            SleeperPhase::AllEnded(took) => took,
            other => bail!("the tasks did not end: {other:?}"),
        };
        (&mut self.run).await.context("the framework panicked")??;
        Ok(took)
    }
}

impl Drop for SleepingTasks {
    fn drop(&mut self) {
        self.stop.cancel();
        self.run.abort();
    }
}

async fn next(
    watched: &mut watch::Receiver<SleeperPhase>,
    now: SleeperPhase,
) -> Result<SleeperPhase> {
    let other = watched.wait_for(|phase| *phase != now).await;
    match other.context("the framework is gone")?.clone() {
        SleeperPhase::Failed(why) => bail!("{why}"),
        stage => Ok(stage),
    }
}
