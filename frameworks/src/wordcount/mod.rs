//! The scheduler that counts words with maps and reduces on the agents.
//!
//! It answers offers and reports events. `job` chooses the next task, `hold` chooses the offer that
//! is held over a change of leader. Reading order: `split`, `tickets`, `job`, `hold`, this file,
//! `collect`.

pub mod collect;
pub mod held_offer;
pub mod job;
pub mod split;
pub mod tickets;

use std::collections::VecDeque;
use std::time::Instant;

use argosy_client::scheduler::{
    CallOutcome, CallResult, Scheduler, SchedulerDriver, SchedulerError, Subscription,
};
use argosy_proto::v1;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::progress::ProgressFormat;
use held_offer::{CrossEpochOffer, OfferHold};
use job::{Job, JobProgress};
use tickets::TicketDesk;

/// Filter time of declined offers while there is nothing to launch, in milliseconds.
const IDLE_FILTER_MS: u64 = 1_000;
/// Time without a running task, although work waits, before the held offer is used, in
/// milliseconds.
const STUCK_MS: u64 = 1_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct ProgressLine {
    event: &'static str,
    #[serde(flatten)]
    progress: JobProgress,
    offers_held: usize,
    epoch: u64,
}

/// The locations of the reduce outputs, once all exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outputs {
    /// The URL of each output, by reduce.
    pub urls: Vec<String>,
}

/// The scheduler.
pub struct WordCount {
    job: Job,
    hold: OfferHold,
    // Only with TLS.
    tickets: Option<TicketDesk>,
    // Received offers, to be answered in the same callback.
    offers: VecDeque<v1::Offer>,
    // Maximum number of tasks that run together; 0 means no limit.
    parallel: usize,
    style: ProgressFormat,
    last_line: Option<ProgressLine>,
    idle_since_ms: Option<u64>,
    started: Instant,
    epoch: u64,
    is_over: bool,
    outcome: Option<oneshot::Sender<Result<Outputs, String>>>,
}

impl WordCount {
    /// Creates the scheduler; nothing is launched yet. `outcome` receives the locations of the
    /// outputs, or the failure, once.
    #[must_use]
    pub fn new(
        job: Job,
        hold: OfferHold,
        parallel: usize,
        style: ProgressFormat,
        outcome: oneshot::Sender<Result<Outputs, String>>,
    ) -> Self {
        Self {
            job,
            hold,
            tickets: None,
            offers: VecDeque::new(),
            parallel,
            style,
            last_line: None,
            idle_since_ms: None,
            started: Instant::now(),
            epoch: 0,
            is_over: false,
            outcome: Some(outcome),
        }
    }

    /// Returns the same scheduler, which gets the tickets of its job here.
    #[must_use]
    pub fn with_tickets(self, desk: TicketDesk) -> Self {
        Self {
            tickets: Some(desk),
            ..self
        }
    }

    #[must_use]
    pub fn progress(&self) -> JobProgress {
        self.job.progress()
    }

    /// Returns the ids of all launched tasks.
    #[must_use]
    pub fn launched(&self) -> Vec<String> {
        self.job.launched().iter().cloned().collect()
    }

    /// Returns the offers that were used in a later epoch than the one that made them.
    #[must_use]
    pub fn crossings(&self) -> &[CrossEpochOffer] {
        self.hold.crossings()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Answers every received offer, and uses the held one when it is due.
    fn use_offers(&mut self, driver: &SchedulerDriver) {
        let now_ms = self.now_ms();
        if self.job.waiting() > 1 {
            self.hold.choose(&mut self.offers, self.job.needs(), now_ms);
        }
        while let Some(offer) = self.offers.pop_front() {
            // The last piece waits for the held offer, so that the offer always has a use.
            let reserve = usize::from(self.hold.is_holding());
            let most = self
                .free_slots()
                .min(self.job.waiting().saturating_sub(reserve));
            self.use_offer(driver, &offer, most);
        }
        let is_stuck = self.is_stuck(now_ms);
        if self.job.waiting() > 0
            && let Some(offer) = self.hold.take_due(self.epoch, is_stuck)
        {
            // At least one, whatever the limit, because the offer must be used.
            let most = self.free_slots().max(1).min(self.job.waiting());
            let call = self.use_offer(driver, &offer, most);
            self.hold.record_use(&offer, self.epoch, call);
        }
    }

    /// Receives issued tickets, and requests those that are missing.
    fn refresh_tickets(&mut self) {
        let now_ms = self.now_ms();
        if let (Some(desk), Some(book)) = (&mut self.tickets, self.job.tickets())
            && let Err(why) = desk.receive(book)
        {
            self.job.fail(why);
        }
        let missing = self.job.missing_tickets(now_ms);
        if let Some(desk) = &mut self.tickets {
            desk.request(self.job.framework_id(), missing, now_ms);
        }
    }

    /// Returns whether the held offer is needed: only the last piece waits, or nothing runs and no
    /// offer arrives.
    fn is_stuck(&mut self, now_ms: u64) -> bool {
        if self.job.running() > 0 || self.job.waiting() == 0 {
            self.idle_since_ms = None;
            return self.job.waiting() == 1;
        }
        let since_ms = *self.idle_since_ms.get_or_insert(now_ms);
        self.job.waiting() == 1 || now_ms.saturating_sub(since_ms) >= STUCK_MS
    }

    fn free_slots(&self) -> usize {
        match self.parallel {
            0 => usize::MAX,
            most => most.saturating_sub(self.job.running()),
        }
    }

    fn use_offer(
        &mut self,
        driver: &SchedulerDriver,
        offer: &v1::Offer,
        most: usize,
    ) -> Option<argosy_client::scheduler::CallKey> {
        let tasks = self.job.fill(offer, most);
        if !tasks.is_empty() {
            return Some(driver.accept(offer, tasks).key);
        }
        let ids = vec![offer.offer_id.clone()];
        if most > 0 {
            driver.decline_because(ids, None, "too-small", "no task fits into it");
        } else {
            driver.decline_because(
                ids,
                Some(IDLE_FILTER_MS),
                "no-demand",
                "nothing to launch now",
            );
        }
        None
    }

    /// Must be called after every change: a new phase requests offers immediately, and the end is
    /// reported.
    fn advance(&mut self, driver: &SchedulerDriver, waiting_before: usize) {
        if self.is_over {
            return;
        }
        self.refresh_tickets();
        if waiting_before == 0 && self.job.waiting() > 0 {
            // Offers were declined for lack of work; now there is some.
            driver.revive(Vec::new());
        }
        self.use_offers(driver);
        if let Some(why) = self.job.failure() {
            let why = why.to_owned();
            self.finish(Err(why));
            driver.teardown();
        } else if let Some(urls) = self.job.outputs() {
            // The framework stays until its outputs are fetched. The fetcher tears it down.
            self.finish(Ok(Outputs { urls }));
            driver.suppress(Vec::new());
        }
    }

    fn finish(&mut self, result: Result<Outputs, String>) {
        self.is_over = true;
        if let Some(outcome) = self.outcome.take() {
            // The receiver is gone only if the program is ending anyway.
            let _ = outcome.send(result);
        }
    }

    fn show(&mut self) {
        let line = ProgressLine {
            event: "progress",
            progress: self.job.progress(),
            offers_held: usize::from(self.hold.is_holding()),
            epoch: self.epoch,
        };
        if self.last_line.as_ref() == Some(&line) {
            return;
        }
        let JobProgress {
            maps_done,
            maps,
            reduces_done,
            reduces,
            running,
            retries,
            ..
        } = line.progress;
        let text = format!(
            "maps {maps_done}/{maps}  reduces {reduces_done}/{reduces}  running {running}  retries {retries}  epoch {}",
            line.epoch
        );
        self.style.print(&line, &text);
        self.last_line = Some(line);
    }
}

impl Scheduler for WordCount {
    fn registered(&mut self, _: &SchedulerDriver, subscription: &Subscription) {
        self.epoch = subscription.epoch;
        self.job.registered(&subscription.framework_id);
        let id = &subscription.framework_id;
        let event =
            serde_json::json!({"event": "registered", "framework": id, "epoch": self.epoch});
        self.style
            .print(&event, &format!("registered as {id}, epoch {}", self.epoch));
    }

    fn reconnected(&mut self, driver: &SchedulerDriver, subscription: &Subscription) {
        self.epoch = subscription.epoch;
        let kept = subscription.kept_offers.len();
        let event =
            serde_json::json!({"event": "reconnected", "epoch": self.epoch, "kept_offers": kept});
        self.style.print(
            &event,
            &format!(
                "back with a leader, epoch {}, {kept} offers kept",
                self.epoch
            ),
        );
        self.use_offers(driver);
    }

    fn offers(&mut self, driver: &SchedulerDriver, offers: Vec<v1::Offer>) {
        self.offers.extend(offers);
        self.use_offers(driver);
    }

    fn rescinded(&mut self, _: &SchedulerDriver, offer_id: &str, reason: &str) {
        tracing::info!(offer_id, reason, "an offer became invalid");
        self.hold.rescinded(offer_id);
        self.offers.retain(|offer| offer.offer_id != offer_id);
    }

    fn answered(&mut self, driver: &SchedulerDriver, answer: &CallResult) {
        let waiting = self.job.waiting();
        for (task_id, why) in answer.not_launched() {
            tracing::info!(task_id, why, "not launched");
            self.job.not_launched(task_id, why);
        }
        if matches!(answer.outcome, CallOutcome::Lost(_)) && !answer.task_ids.is_empty() {
            driver.reconcile(answer.task_ids.clone());
        }
        if let Some(crossing) = self.hold.answered(answer) {
            let event = serde_json::json!({"event": "crossing", "crossing": crossing});
            let text = format!(
                "offer {} made in epoch {} was accepted in epoch {}",
                crossing.offer, crossing.made_in_epoch, crossing.used_in_epoch
            );
            self.style.print(&event, &text);
        }
        self.advance(driver, waiting);
    }

    fn update(&mut self, driver: &SchedulerDriver, status: &v1::TaskStatus) {
        let waiting = self.job.waiting();
        if let Some(problem) = self.job.update(status) {
            let event =
                serde_json::json!({"event": "problem", "task": status.task_id, "text": problem});
            self.style.print(&event, &problem);
        }
        self.advance(driver, waiting);
    }

    fn agent_lost(&mut self, driver: &SchedulerDriver, agent_id: &str, reason: &str) {
        // The outputs are being fetched, and no task can replace them.
        if self.is_over {
            return;
        }
        tracing::info!(agent_id, reason, "an agent was lost");
        let waiting = self.job.waiting();
        self.job.agent_lost(agent_id);
        self.advance(driver, waiting);
    }

    fn tick(&mut self, driver: &SchedulerDriver) {
        let waiting = self.job.waiting();
        self.advance(driver, waiting);
        self.show();
    }

    fn error(&mut self, _: &SchedulerDriver, error: &SchedulerError) {
        self.finish(Err(error.to_string()));
    }
}
