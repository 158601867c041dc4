//! An endless series of short tasks, which makes gaps in offers and launches visible.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use argosy_client::scheduler::{Scheduler, SchedulerDriver, SchedulerRunner, Subscription};
use argosy_proto::v1;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{config, room, task};
use crate::cluster::MasterAccess;

/// Interval of tasks, if an offer is available.
const TASK_INTERVAL: Duration = Duration::from_millis(20);
/// Timeout of the first subscription.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(30);
/// Number of offers that are held; others are declined.
const HELD_OFFERS: usize = 4;

/// The longest time between two events. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct LongestGap(
    // Held for a few instructions; nothing is awaited under it.
    Arc<Mutex<GapState>>,
);

#[derive(Debug)]
struct GapState {
    last: Instant,
    longest: Duration,
}

impl Default for GapState {
    fn default() -> Self {
        Self {
            last: Instant::now(),
            longest: Duration::ZERO,
        }
    }
}

impl LongestGap {
    pub(crate) fn note(&self) {
        let mut gap = self.0.lock().expect("no holder panics");
        gap.longest = gap.longest.max(gap.last.elapsed());
        gap.last = Instant::now();
    }

    /// Returns the longest gap so far, the present one included.
    pub(crate) fn longest(&self) -> Duration {
        let gap = self.0.lock().expect("no holder panics");
        gap.longest.max(gap.last.elapsed())
    }

    /// Starts a new measurement.
    pub(crate) fn restart(&self) {
        *self.0.lock().expect("no holder panics") = GapState::default();
    }
}

/// A framework that runs until drop.
pub(crate) struct Trickle {
    _run: AbortOnDropHandle<()>,
    gaps: LongestGap,
}

struct TrickleScheduler {
    offers: VecDeque<v1::Offer>,
    launched: u64,
    subscribed: Option<oneshot::Sender<()>>,
    gaps: LongestGap,
}

impl Scheduler for TrickleScheduler {
    fn registered(&mut self, _: &SchedulerDriver, _: &Subscription) {
        if let Some(subscribed) = self.subscribed.take() {
            // The receiver may be gone.
            let _ = subscribed.send(());
        }
    }

    fn offers(&mut self, driver: &SchedulerDriver, offers: Vec<v1::Offer>) {
        for offer in offers {
            if self.offers.len() < HELD_OFFERS && room(&offer) > 0 {
                self.offers.push_back(offer);
            } else {
                driver.decline(&offer, Some(100));
            }
        }
    }

    fn rescinded(&mut self, _: &SchedulerDriver, offer_id: &str, _: &str) {
        self.offers.retain(|offer| offer.offer_id != offer_id);
    }

    fn update(&mut self, _: &SchedulerDriver, _: &v1::TaskStatus) {
        self.gaps.note();
    }

    fn tick(&mut self, driver: &SchedulerDriver) {
        if let Some(offer) = self.offers.pop_front() {
            self.launched += 1;
            let task = task(format!("task-{}", self.launched), &["/bin/true"], None);
            drop(driver.accept(&offer, vec![task]));
        }
    }
}

impl Trickle {
    /// Subscribes.
    ///
    /// # Errors
    /// If the masters do not accept it within half a minute.
    pub(crate) async fn start(masters: &MasterAccess) -> Result<Self> {
        let (sender, subscribed) = oneshot::channel();
        let mut drip = TrickleScheduler {
            offers: VecDeque::new(),
            launched: 0,
            subscribed: Some(sender),
            gaps: LongestGap::default(),
        };
        let gaps = drip.gaps.clone();
        let mut config = config(masters, "bench-trickle");
        // It must outlive every gap.
        config.info.failover_timeout_ms = Some(600_000);
        config.tick = TASK_INTERVAL;
        let run = tokio::spawn(async move {
            // Its end shows in the missing phases.
            let _ = SchedulerRunner::new(config)
                .run(&mut drip, CancellationToken::new())
                .await;
        });
        let run = AbortOnDropHandle::new(run);
        let waited = tokio::time::timeout(SUBSCRIBE_TIMEOUT, subscribed).await;
        waited
            .context("the framework is not subscribed in time")?
            .context("the framework was refused")?;
        Ok(Self { _run: run, gaps })
    }

    /// Returns the gaps between updates of its tasks.
    pub(crate) fn gaps(&self) -> &LongestGap {
        &self.gaps
    }
}
