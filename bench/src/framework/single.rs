//! One task after the other, each timed from its acceptance until it is seen running.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use argosy_client::scheduler::{
    CallResult, Scheduler, SchedulerDriver, SchedulerRunner, is_terminal,
};
use argosy_proto::v1;
use tokio_util::sync::CancellationToken;

use super::{config, room, task};
use crate::cluster::MasterAccess;

const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The command, long enough that its end does not overtake its start.
const COMMAND: &[&str] = &["/bin/sleep", "0.05"];
/// Interval of ticks, and the pause between two tasks, so that the cluster is idle again.
const PAUSE: Duration = Duration::from_millis(50);

/// Times from an offer's acceptance to RUNNING, in milliseconds.
pub(crate) struct StartScheduler {
    total: u32,
    network: Option<v1::Network>,
    pub(crate) times_ms: Vec<f64>,
    offer: Option<v1::Offer>,
    started: Option<Instant>,
    is_running: bool,
    failure: Option<String>,
    last_progress: Instant,
}

impl StartScheduler {
    fn new(wanted: u32, network: Option<v1::Network>) -> Self {
        Self {
            total: wanted,
            network,
            times_ms: Vec::new(),
            offer: None,
            started: None,
            is_running: false,
            failure: None,
            last_progress: Instant::now(),
        }
    }

    /// Runs a framework that stays and starts this number of tasks, one by one, in this network or
    /// in the default one.
    ///
    /// # Errors
    /// If one is rejected, ends early, or does not start.
    pub(crate) async fn resident(
        masters: &MasterAccess,
        wanted: u32,
        network: Option<v1::Network>,
    ) -> Result<Self> {
        let mut starts = Self::new(wanted, network);
        let mut config = config(masters, "bench-starts");
        config.tick = PAUSE;
        SchedulerRunner::new(config)
            .run(&mut starts, CancellationToken::new())
            .await
            .context("the framework ended")?;
        match starts.failure.take() {
            Some(why) => bail!("{why}"),
            None => Ok(starts),
        }
    }

    fn fail(&mut self, driver: &SchedulerDriver, why: String) {
        if self.failure.is_none() {
            self.failure = Some(why);
            drop(driver.teardown());
        }
    }
}

impl Scheduler for StartScheduler {
    fn offers(&mut self, driver: &SchedulerDriver, offers: Vec<v1::Offer>) {
        for offer in offers {
            if self.offer.is_none() && room(&offer) > 0 {
                self.offer = Some(offer);
            } else {
                driver.decline(&offer, Some(PAUSE.as_millis() as u64));
            }
        }
    }

    fn rescinded(&mut self, _: &SchedulerDriver, offer_id: &str, _: &str) {
        self.offer.take_if(|offer| offer.offer_id == offer_id);
    }

    fn update(&mut self, driver: &SchedulerDriver, status: &v1::TaskStatus) {
        self.last_progress = Instant::now();
        if let Some(begun) = self
            .started
            .filter(|_| status.state() == v1::TaskState::Running && !self.is_running)
        {
            self.is_running = true;
            self.times_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        if !is_terminal(status.state()) {
            return;
        }
        if status.state() != v1::TaskState::Finished || !self.is_running {
            self.fail(
                driver,
                format!(
                    "{} is {:?} before it was seen running: {}",
                    status.task_id,
                    status.state(),
                    status.message
                ),
            );
        }
        self.started = None;
        self.is_running = false;
        if self.times_ms.len() == self.total as usize {
            drop(driver.teardown());
        }
    }

    fn answered(&mut self, driver: &SchedulerDriver, answer: &CallResult) {
        if let Some((task, why)) = answer.not_launched().first() {
            let why = format!("{task} was not launched: {why}");
            self.fail(driver, why);
        }
    }

    fn tick(&mut self, driver: &SchedulerDriver) {
        if self.last_progress.elapsed() > START_TIMEOUT {
            self.fail(
                driver,
                format!(
                    "nothing happened for {START_TIMEOUT:?}; {} tasks were started",
                    self.times_ms.len()
                ),
            );
        }
        if self.started.is_none()
            && self.times_ms.len() < self.total as usize
            && let Some(offer) = self.offer.take()
        {
            let name = format!("task-{}", self.times_ms.len());
            let task = task(name, COMMAND, self.network.as_ref());
            self.started = Some(Instant::now());
            drop(driver.accept(&offer, vec![task]));
        }
    }
}

/// A framework that registers, waits for an offer, launches on it and exits.
struct OneTaskFramework {
    network: Option<v1::Network>,
    started: Instant,
    launched: bool,
    time_ms: Option<f64>,
    failure: Option<String>,
}

impl Scheduler for OneTaskFramework {
    fn offers(&mut self, driver: &SchedulerDriver, offers: Vec<v1::Offer>) {
        for offer in offers {
            if self.launched || room(&offer) == 0 {
                driver.decline(&offer, None);
            } else {
                self.launched = true;
                drop(driver.accept(
                    &offer,
                    vec![task("task".into(), COMMAND, self.network.as_ref())],
                ));
            }
        }
    }

    fn update(&mut self, driver: &SchedulerDriver, status: &v1::TaskStatus) {
        if status.state() == v1::TaskState::Running && self.time_ms.is_none() {
            self.time_ms = Some(self.started.elapsed().as_secs_f64() * 1e3);
        }
        if is_terminal(status.state()) {
            drop(driver.teardown());
        }
    }

    fn tick(&mut self, driver: &SchedulerDriver) {
        if self.started.elapsed() > START_TIMEOUT && self.failure.is_none() {
            self.failure = Some(format!("no task ran within {START_TIMEOUT:?}"));
            drop(driver.teardown());
        }
    }
}

/// Returns the milliseconds from the first call to the masters until the only task is seen running,
/// in this network or in the default one.
///
/// # Errors
/// If it does not run.
pub(crate) async fn fresh_start(
    masters: &MasterAccess,
    network: Option<v1::Network>,
) -> Result<f64> {
    let mut framework = OneTaskFramework {
        network,
        started: Instant::now(),
        launched: false,
        time_ms: None,
        failure: None,
    };
    let run = SchedulerRunner::new(config(masters, "bench-visitor"))
        .run(&mut framework, CancellationToken::new());
    run.await.context("the framework ended")?;
    if let Some(why) = framework.failure {
        bail!("{why}");
    }
    framework
        .time_ms
        .context("the task ended before it was seen running")
}
