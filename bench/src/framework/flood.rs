//! As many tasks as fit, until all have finished.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use argosy_client::scheduler::{
    CallResult, Scheduler, SchedulerDriver, SchedulerRunner, is_terminal,
};
use argosy_proto::v1;
use tokio_util::sync::CancellationToken;

use super::{config, room, task};
use crate::cluster::MasterAccess;

/// Prefix of the id of each task; its number follows.
const TASK: &str = "task-";
/// Time without a finished task after which the run fails.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

struct FloodScheduler {
    total: u32,
    network: Option<v1::Network>,
    /// Numbers of the tasks to launch.
    to_launch: VecDeque<u32>,
    finished: u32,
    refused: u32,
    failure: Option<String>,
    last: Option<Instant>,
    last_progress: Instant,
}

impl Scheduler for FloodScheduler {
    fn offers(&mut self, driver: &SchedulerDriver, offers: Vec<v1::Offer>) {
        for offer in offers {
            let count = room(&offer).min(self.to_launch.len());
            if count == 0 {
                // Not unlimited: a rejected launch needs another offer.
                driver.decline(&offer, Some(1_000));
                continue;
            }
            let tasks = self.to_launch.drain(..count).map(|number| {
                task(
                    format!("{TASK}{number}"),
                    &["/bin/true"],
                    self.network.as_ref(),
                )
            });
            drop(driver.accept(&offer, tasks.collect()));
        }
    }

    fn update(&mut self, driver: &SchedulerDriver, status: &v1::TaskStatus) {
        if !is_terminal(status.state()) {
            return;
        }
        self.last_progress = Instant::now();
        if status.state() != v1::TaskState::Finished {
            self.failure = Some(format!(
                "{} is {:?}: {}",
                status.task_id,
                status.state(),
                status.message
            ));
            drop(driver.teardown());
            return;
        }
        self.finished += 1;
        if self.finished == self.total {
            self.last = Some(Instant::now());
            drop(driver.teardown());
        }
    }

    fn answered(&mut self, _: &SchedulerDriver, answer: &CallResult) {
        // An offer that was rescinded in the meantime is not a failure: its tasks wait for the next
        // one.
        for (task, why) in answer.not_launched() {
            self.refused += 1;
            match task
                .strip_prefix(TASK)
                .and_then(|number| number.parse().ok())
            {
                Some(number) => self.to_launch.push_back(number),
                None => self.failure = Some(format!("{task} was not launched: {why}")),
            }
        }
    }

    fn tick(&mut self, driver: &SchedulerDriver) {
        if self.last_progress.elapsed() > STALL_TIMEOUT && self.failure.is_none() {
            self.failure = Some(format!(
                "nothing finished for {STALL_TIMEOUT:?}; {} of {} had",
                self.finished, self.total
            ));
            drop(driver.teardown());
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct FloodResult {
    /// Time from before the first call to the masters until the last FINISHED was seen.
    pub(crate) duration: Duration,
    /// Number of launches that were rejected and repeated.
    pub(crate) refused: u32,
}

/// Runs `total` tasks of /bin/true in this network, or in the default one.
///
/// # Errors
/// If one ends otherwise, or nothing happens for a minute.
pub(crate) async fn flood(
    masters: &MasterAccess,
    total: u32,
    network: Option<v1::Network>,
) -> Result<FloodResult> {
    let begin = Instant::now();
    let mut flood = FloodScheduler {
        total,
        network,
        to_launch: (0..total).collect(),
        finished: 0,
        refused: 0,
        failure: None,
        last: None,
        last_progress: begin,
    };
    let run = SchedulerRunner::new(config(masters, "bench-flood"))
        .run(&mut flood, CancellationToken::new());
    // The run of a framework ends by itself after its teardown.
    run.await.context("the framework ended")?;
    if let Some(why) = flood.failure {
        bail!("{why}");
    }
    let last = flood.last.context("the framework ended before its tasks")?;
    Ok(FloodResult {
        duration: last - begin,
        refused: flood.refused,
    })
}
