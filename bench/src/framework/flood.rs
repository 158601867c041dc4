//! As many tasks as fit, until all have finished.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use argosy_client::Masters;
use argosy_client::scheduler::{Answer, Driver, Runner, Scheduler, is_terminal};
use argosy_proto::v1;
use tokio_util::sync::CancellationToken;

use super::{config, room, task};

/// How long nothing may finish.
const STALLED: Duration = Duration::from_secs(60);

struct Flood {
    total: u32,
    launched: u32,
    finished: u32,
    failed: Option<String>,
    last: Option<Instant>,
    moved: Instant,
}

impl Scheduler for Flood {
    fn offers(&mut self, driver: &Driver, offers: Vec<v1::Offer>) {
        for offer in offers {
            let count = room(&offer).min((self.total - self.launched) as usize);
            if count == 0 {
                driver.decline(&offer, Some(3_600_000));
                continue;
            }
            let first = self.launched;
            self.launched += u32::try_from(count).expect("no more than the total");
            let tasks =
                (first..self.launched).map(|number| task(format!("task-{number}"), &["/bin/true"]));
            drop(driver.accept(&offer, tasks.collect()));
        }
    }

    fn update(&mut self, driver: &Driver, status: &v1::TaskStatus) {
        if !is_terminal(status.state()) {
            return;
        }
        self.moved = Instant::now();
        if status.state() != v1::TaskState::Finished {
            self.failed = Some(format!(
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

    fn answered(&mut self, driver: &Driver, answer: &Answer) {
        if let Some((task, why)) = answer.not_launched().first() {
            self.failed = Some(format!("{task} was not launched: {why}"));
            drop(driver.teardown());
        }
    }

    fn tick(&mut self, driver: &Driver) {
        if self.moved.elapsed() > STALLED && self.failed.is_none() {
            self.failed = Some(format!(
                "nothing finished for {STALLED:?}; {} of {} had",
                self.finished, self.total
            ));
            drop(driver.teardown());
        }
    }
}

/// Runs `total` tasks of /bin/true; returns how long it took from before the first word to the
/// masters until the last FINISHED was seen.
///
/// # Errors
/// If one is refused, ends otherwise, or nothing happens for a minute.
pub(crate) async fn flood(masters: &Masters, total: u32) -> Result<Duration> {
    let begin = Instant::now();
    let mut flood = Flood {
        total,
        launched: 0,
        finished: 0,
        failed: None,
        last: None,
        moved: begin,
    };
    let run = Runner::new(config(masters, "bench-flood")).run(&mut flood, CancellationToken::new());
    // A torn-down framework's run ends by itself.
    run.await.context("the framework ended")?;
    if let Some(why) = flood.failed {
        bail!("{why}");
    }
    Ok(flood.last.context("the framework ended before its tasks")? - begin)
}
