//! A short task now and then, for ever: what offers and launches are seen by.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result};
use argosy_client::Masters;
use argosy_client::scheduler::{Driver, Runner, Scheduler, Subscription};
use argosy_proto::v1;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{config, room, task};

/// A task so often, if an offer is at hand.
const EVERY: Duration = Duration::from_millis(20);
/// How long the first subscription may take.
const SUBSCRIBING: Duration = Duration::from_secs(30);
/// Offers that are kept; others go back.
const KEPT: usize = 4;

/// A framework that runs until the value is dropped.
pub(crate) struct Trickle {
    _run: AbortOnDropHandle<()>,
}

struct Drip {
    held: VecDeque<v1::Offer>,
    launched: u64,
    subscribed: Option<oneshot::Sender<()>>,
}

impl Scheduler for Drip {
    fn registered(&mut self, _: &Driver, _: &Subscription) {
        if let Some(subscribed) = self.subscribed.take() {
            // Who asked may have given up.
            let _ = subscribed.send(());
        }
    }

    fn offers(&mut self, driver: &Driver, offers: Vec<v1::Offer>) {
        for offer in offers {
            if self.held.len() < KEPT && room(&offer) > 0 {
                self.held.push_back(offer);
            } else {
                driver.decline(&offer, Some(100));
            }
        }
    }

    fn rescinded(&mut self, _: &Driver, offer_id: &str, _: &str) {
        self.held.retain(|offer| offer.offer_id != offer_id);
    }

    fn update(&mut self, _: &Driver, _: &v1::TaskStatus) {}

    fn tick(&mut self, driver: &Driver) {
        if let Some(offer) = self.held.pop_front() {
            self.launched += 1;
            let task = task(format!("task-{}", self.launched), &["/bin/true"]);
            drop(driver.accept(&offer, vec![task]));
        }
    }
}

impl Trickle {
    /// Subscribes.
    ///
    /// # Errors
    /// If the masters do not take it within half a minute.
    pub(crate) async fn start(masters: &Masters) -> Result<Self> {
        let (sender, subscribed) = oneshot::channel();
        let mut drip = Drip {
            held: VecDeque::new(),
            launched: 0,
            subscribed: Some(sender),
        };
        let mut config = config(masters, "bench-trickle");
        // It must outlive every gap.
        config.info.failover_timeout_ms = Some(600_000);
        config.tick = EVERY;
        let run = tokio::spawn(async move {
            // Its end is seen by the phases that are missing then.
            let _ = Runner::new(config)
                .run(&mut drip, CancellationToken::new())
                .await;
        });
        let run = AbortOnDropHandle::new(run);
        let waited = tokio::time::timeout(SUBSCRIBING, subscribed).await;
        waited
            .context("the framework is not subscribed in time")?
            .context("the framework was refused")?;
        Ok(Self { _run: run })
    }
}
