//! The edge of a session: streams, calls, timers, and the callbacks one by one.
//!
//! It decides nothing: every input goes to the core, and every effect is performed.

use std::collections::VecDeque;
use std::time::Duration;

use argosy_proto::v1;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::driver::{Command, SchedulerDriver};
use super::session::{self, Effect, Input, Notification, Session, SessionIdentity};
use super::wire::{FIRST_EVENT, call, numbered, read};
use super::{CallOutcome, Scheduler, SchedulerConfig, SchedulerError};
use crate::connector::{Connector, DEFAULT_DEADLINE};
use crate::failure::CallError;

/// Capacity for events that were read and not handled yet. When it is full, reading stops, and the
/// master holds offers back.
const INBOX: usize = 256;
/// Time for which a stop waits for earlier requests.
const DRAIN: Duration = Duration::from_secs(5);

/// A scheduler that is ready to run.
pub struct SchedulerRunner {
    config: SchedulerConfig,
    driver: ClosedOnDrop,
}

impl SchedulerRunner {
    /// Creates a runner without connecting.
    #[must_use]
    pub fn new(config: SchedulerConfig) -> Self {
        Self {
            config,
            driver: ClosedOnDrop(SchedulerDriver::new()),
        }
    }

    /// Returns a handle for other tasks.
    #[must_use]
    pub fn driver(&self) -> SchedulerDriver {
        self.driver.0.clone()
    }

    /// Runs until [`SchedulerDriver::stop`], [`SchedulerDriver::teardown`], `stop` or an error.
    /// Tasks continue, except after a teardown.
    ///
    /// # Errors
    /// [`SchedulerError`], after [`Scheduler::error`] was called.
    pub async fn run(
        self,
        scheduler: &mut impl Scheduler,
        stop: CancellationToken,
    ) -> Result<(), SchedulerError> {
        let result = Rim::new(self.config, self.driver.0.clone())
            .run(scheduler, stop)
            .await;
        // The end of the session has answered all calls that were sent.
        let why = "the run ended before the answer".to_owned();
        self.driver.0.close(&CallOutcome::NotSent(why));
        result
    }
}

/// A driver whose open calls are answered also if the run is dropped, or a callback panics.
struct ClosedOnDrop(SchedulerDriver);

impl Drop for ClosedOnDrop {
    fn drop(&mut self) {
        let why = "the run was abandoned before the answer".to_owned();
        self.0
            .close(&CallOutcome::Lost(session::local("run-ended", why)));
    }
}

/// [`SchedulerRunner::run`] for a scheduler that needs no handle from outside.
///
/// # Errors
/// As [`SchedulerRunner::run`].
pub async fn run(
    scheduler: &mut impl Scheduler,
    config: SchedulerConfig,
    stop: CancellationToken,
) -> Result<(), SchedulerError> {
    SchedulerRunner::new(config).run(scheduler, stop).await
}

struct Rim {
    session: Session,
    driver: SchedulerDriver,
    connector: Connector,
    started: Instant,
    tick: Duration,
    first_subscription: Option<Duration>,
    // Calls and the reading of the stream; each ends with an input.
    tasks: JoinSet<Option<Input>>,
    inbox: mpsc::Receiver<Input>,
    sender: mpsc::Sender<Input>,
    last_failure: Option<CallError>,
    // Set once a stop is requested: the time after which answers are no longer awaited.
    drain_until: Option<Instant>,
}

impl Rim {
    fn new(config: SchedulerConfig, driver: SchedulerDriver) -> Self {
        let seed = config.connector.seed;
        let identity = SessionIdentity {
            info: config.info,
            framework_id: config.framework_id,
            session: config.session.max(1),
            acknowledge: config.acknowledge,
            seed,
        };
        let (sender, inbox) = mpsc::channel(INBOX);
        Self {
            session: Session::new(identity),
            driver,
            connector: Connector::new(config.masters, config.connector),
            started: Instant::now(),
            tick: config.tick,
            first_subscription: config.first_subscription,
            tasks: JoinSet::new(),
            inbox,
            sender,
            last_failure: None,
            drain_until: None,
        }
    }

    async fn run(
        mut self,
        scheduler: &mut impl Scheduler,
        stop: CancellationToken,
    ) -> Result<(), SchedulerError> {
        let far = Duration::from_secs(u64::from(u32::MAX));
        let mut ticks = tokio::time::interval(if self.tick.is_zero() { far } else { self.tick });
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        // A stream that opens and stays silent does not end the search; this timer does.
        let first = tokio::time::sleep(
            self.first_subscription
                .map_or(far, |limit| limit + FIRST_EVENT),
        );
        tokio::pin!(first);
        if let Some(result) = self.handle(scheduler, Input::Begin) {
            return result;
        }
        loop {
            let drain_until = self.drain_until.unwrap_or_else(|| Instant::now() + far);
            let input = tokio::select! {
                biased;
                () = stop.cancelled(), if self.drain_until.is_none() => Input::Command(Command::Stop),
                () = tokio::time::sleep_until(drain_until), if self.drain_until.is_some() => Input::DrainTimedOut,
                () = self.driver.notified() => {
                    if let Some(result) = self.take_commands(scheduler) {
                        return result;
                    }
                    continue;
                }
                Some(done) = self.tasks.join_next() => match done {
                    Ok(Some(input)) => input,
                    Ok(None) => continue,
                    // These tasks are never aborted, so a join error is a panic.
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                Some(input) = self.inbox.recv() => input,
                _ = ticks.tick() => {
                    scheduler.tick(&self.driver);
                    continue;
                }
                () = &mut first, if !self.session.was_registered() => return self.not_reached(scheduler),
            };
            if let Some(result) = self.handle(scheduler, input) {
                return result;
            }
            if self.is_first_subscription_over() {
                return self.not_reached(scheduler);
            }
        }
    }

    fn is_first_subscription_over(&self) -> bool {
        let limit = self
            .first_subscription
            .filter(|_| !self.session.was_registered());
        // The failed search itself has used up the time, up to the precision of a timer.
        self.last_failure.is_some()
            && limit
                .is_some_and(|limit| self.started.elapsed() + Duration::from_millis(50) >= limit)
    }

    fn not_reached(&mut self, scheduler: &mut impl Scheduler) -> Result<(), SchedulerError> {
        let after_ms = self.now_ms();
        let nothing = CallError::Unanswered {
            after_ms,
            causes: Default::default(),
        };
        let error = SchedulerError::NotReached(self.last_failure.take().unwrap_or(nothing));
        scheduler.error(&self.driver, &error);
        Err(error)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Handles the requests that callbacks and other tasks have made since the last call.
    fn take_commands(
        &mut self,
        scheduler: &mut impl Scheduler,
    ) -> Option<Result<(), SchedulerError>> {
        let mut result = None;
        for command in self.driver.take_commands() {
            result = result.or(self.handle(scheduler, Input::Command(command)));
        }
        result
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        match &input {
            Input::ConnectFailed { error, .. } => self.last_failure = Some(error.clone()),
            Input::Command(Command::Stop) => {
                self.drain_until
                    .get_or_insert_with(|| Instant::now() + DRAIN);
            }
            _ => {}
        }
        let now_ms = self.now_ms();
        self.session.step(now_ms, input)
    }

    /// Handles one input, all its effects, and all inputs that callbacks create. `Some` ends the
    /// run.
    fn handle(
        &mut self,
        scheduler: &mut impl Scheduler,
        input: Input,
    ) -> Option<Result<(), SchedulerError>> {
        let mut effects: VecDeque<Effect> = self.step(input).into();
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::End(result) => {
                    if let Err(error) = &result {
                        scheduler.error(&self.driver, error);
                    }
                    return Some(result);
                }
                Effect::Notify(notice) => {
                    let handled = self.notify(scheduler, notice);
                    let asked = self.driver.take_commands().into_iter().map(Input::Command);
                    let mut inputs: Vec<Input> = asked.collect();
                    // Acknowledged last, so that the callback's requests are sent first; but before
                    // a stop, which waits for all known acknowledgements.
                    let is_stop = |input: &Input| matches!(input, Input::Command(Command::Stop));
                    let end = inputs.iter().position(is_stop).unwrap_or(inputs.len());
                    inputs.splice(end..end, handled);
                    for input in inputs {
                        effects.extend(self.step(input));
                    }
                }
                effect => self.perform(effect),
            }
        }
        None
    }

    fn notify(&mut self, scheduler: &mut impl Scheduler, notice: Notification) -> Option<Input> {
        let driver = &self.driver;
        match notice {
            Notification::Registered(subscription) => scheduler.registered(driver, &subscription),
            Notification::Reconnected(subscription) => scheduler.reconnected(driver, &subscription),
            Notification::Disconnected(why) => scheduler.disconnected(driver, &why),
            Notification::Offers(offers) => scheduler.offers(driver, offers),
            Notification::Rescinded { offer_id, reason } => {
                scheduler.rescinded(driver, &offer_id, &reason)
            }
            Notification::AgentLost { agent_id, reason } => {
                scheduler.agent_lost(driver, &agent_id, &reason)
            }
            Notification::Message(message) => scheduler.message(driver, &message),
            Notification::DemandUnmet(demand) => scheduler.demand_unmet(driver, &demand),
            Notification::Answered(answer) => {
                driver.answer(&answer);
                scheduler.answered(driver, &answer);
            }
            Notification::Update(status) => {
                scheduler.update(driver, &status);
                let revision = status.revision?;
                let task_id = status.task_id;
                return Some(Input::Handled { task_id, revision });
            }
        }
        None
    }

    fn decline(&mut self, serial: u64, request: v1::DeclineRequest) {
        let connector = self.connector.clone();
        self.tasks.spawn(async move {
            let result = call(&connector, request, |mut stub, r| async move {
                stub.decline(r).await
            });
            // If the declines are lost, the offers expire.
            if let Err(error) = result.await {
                tracing::debug!(%error, "offers could not be declined");
            }
            Some(Input::DeclineSent { serial })
        });
    }

    fn message(&mut self, request: v1::MessageRequest) {
        let connector = self.connector.clone();
        self.tasks.spawn(async move {
            let result = call(&connector, request, |mut stub, r| async move {
                stub.message(r).await
            });
            if let Err(error) = result.await {
                tracing::debug!(%error, "a message to an executor is lost");
            }
            Some(Input::MessageSent)
        });
    }

    fn perform(&mut self, effect: Effect) {
        let connector = self.connector.clone();
        match effect {
            Effect::Subscribe {
                link,
                after_ms,
                request,
            } => {
                let sender = self.sender.clone();
                let limit = self
                    .first_subscription
                    .filter(|_| !self.session.was_registered());
                let left = limit.map(|limit| limit.saturating_sub(self.started.elapsed()));
                let deadline = left.unwrap_or(DEFAULT_DEADLINE).min(DEFAULT_DEADLINE);
                self.tasks.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(after_ms)).await;
                    let last = read(&connector, link, (request, deadline), &sender).await;
                    // After all events of the stream. The channel is closed if the run has ended.
                    let _ = sender.send(last).await;
                    None
                });
            }
            Effect::Send { number, request } => {
                self.tasks.spawn(async move {
                    let result = numbered(&connector, request).await;
                    Some(Input::Answered { number, result })
                });
            }
            Effect::Acknowledge { after_ms, request } => {
                self.tasks.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(after_ms)).await;
                    let result = call(&connector, request, |mut stub, r| async move {
                        stub.acknowledge(r).await
                    });
                    Some(Input::Acknowledged(result.await.map(|_| ())))
                });
            }
            Effect::Decline { serial, request } => self.decline(serial, request),
            Effect::Message(request) => self.message(request),
            Effect::Reconcile { serial, request } => {
                self.tasks.spawn(async move {
                    let result = call(&connector, request, |mut stub, r| async move {
                        stub.reconcile(r).await
                    });
                    let result = result.await;
                    Some(Input::Reconciled { serial, result })
                });
            }
            Effect::Notify(_) | Effect::End(_) => unreachable!("feed handles these"),
        }
    }
}
