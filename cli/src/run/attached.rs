//! An attached run: from the first contact with the masters to the end of the task.

mod ending;

use std::io;
use std::time::{Duration, Instant};

use argosy_client::resources::to_wire;
use argosy_proto::v1;
use tokio::task::{JoinHandle, JoinSet, block_in_place};
use tokio::time::Interval;

use super::job::Job;
use super::members::JobTasks;
use super::notes::RunNotes;
use super::outcome::{self, RunTimes};
use super::pending_reason::{self, PendingContext, PendingReason};
use super::preparing::Preparing;
use super::scheduler::RunEvent;
use super::signals::Signals;
use super::stdin::AttachedInput;
use super::{RunOptions, Session};
use crate::exit::{Failure, FailureCode, VerbResult};
use crate::files::{FileChunk, FileLocation, FileReader, ReadError};
use crate::operator::{ClusterClient, EndedObjects as Listed, is_terminal};
use crate::output::{PrefixedOutput, StandardStream, span_ms};
use ending::INTERRUPTED;

/// Time for which a task waits before the reason is shown.
const REASON_DELAY: Duration = Duration::from_secs(5);
/// Interval at which the reason is updated.
const REASON_INTERVAL: Duration = Duration::from_secs(5);
/// Time without contact to the masters before it is reported.
const CONTACT_LOSS: Duration = Duration::from_secs(3);
/// Number of rejected launches after which the run fails.
const TRIES: usize = 20;

/// The state of one `run`.
pub(super) struct AttachedRun {
    job: Job,
    members: JobTasks,
    session: Session,
    operator: ClusterClient,
    options: RunOptions,
    notes: RunNotes,
    framework_id: String,
    times: RunTimes,
    agent_id: Option<String>,
    /// A launch was sent, and no answer has rejected it.
    may_have_launched: bool,
    last_refusal: Option<String>,
    refusals: usize,
    interrupts: u8,
    silent_since: Option<Instant>,
    last_reason: String,
    preparing: Preparing,
    /// The pending request for the reason; at most one at a time.
    reason_request: Option<JoinHandle<Result<PendingReason, Failure>>>,
    tails: JoinSet<Result<(), ReadError>>,
}

/// The event that woke the loop.
enum LoopEvent {
    Event(Option<RunEvent>),
    Interrupted,
    PendingReason(Result<PendingReason, Failure>),
    ReaderGone,
    Tick,
}

impl AttachedRun {
    pub(super) fn new(
        job: Job,
        session: Session,
        client: ClusterClient,
        options: RunOptions,
    ) -> Self {
        Self {
            members: JobTasks::of(&job),
            job,
            session,
            operator: client,
            options,
            notes: RunNotes::start(),
            framework_id: String::new(),
            times: RunTimes::default(),
            agent_id: None,
            may_have_launched: false,
            last_refusal: None,
            refusals: 0,
            interrupts: 0,
            silent_since: None,
            last_reason: String::new(),
            preparing: Preparing::default(),
            reason_request: None,
            tails: JoinSet::new(),
        }
    }

    /// Runs until the task has ended, or until waiting is pointless.
    pub(super) async fn finish(mut self) -> VerbResult {
        let mut signals = Signals::new()?;
        let ended = self.follow(&mut signals).await;
        self.finish_output(&mut signals, ended).await
    }

    async fn follow(&mut self, signals: &mut Signals) -> VerbResult {
        let mut ticks = tokio::time::interval(Duration::from_millis(250));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ask_at = Instant::now() + REASON_DELAY;
        loop {
            let ended = match self.wait(signals, &mut ticks).await {
                LoopEvent::Event(Some(event)) => self.handle(event, signals).await?,
                LoopEvent::Event(None) => return self.session_ended().await,
                LoopEvent::Interrupted => self.interrupted().await?,
                LoopEvent::ReaderGone => {
                    drop(self.session.driver.kill(self.members.first(), None));
                    None
                }
                LoopEvent::PendingReason(found) => {
                    self.reason_request = None;
                    self.print_reason(found);
                    None
                }
                LoopEvent::Tick => self.tick(&mut ask_at, signals).await?,
            };
            if let Some(code) = ended {
                return Ok(code);
            }
        }
    }

    async fn wait(&mut self, signals: &mut Signals, ticks: &mut Interval) -> LoopEvent {
        loop {
            let asking = self.reason_request.is_some();
            tokio::select! {
                event = self.session.events.recv() => return LoopEvent::Event(event),
                () = signals.next() => return LoopEvent::Interrupted,
                found = async { self.reason_request.as_mut().expect("guarded by the condition").await }, if asking => {
                    let failed = |_| Err(Failure::failed("the request for the reason failed"));
                    return LoopEvent::PendingReason(found.unwrap_or_else(failed));
                }
                Some(tail) = self.tails.join_next(), if !self.tails.is_empty() => {
                    if let Ok(Err(error)) = tail
                        && self.tail_ended(&error)
                    {
                        return LoopEvent::ReaderGone;
                    }
                }
                _ = ticks.tick() => return LoopEvent::Tick,
                never = self.preparing.update() => match never {},
            }
        }
    }

    /// Returns whether the reader of the output is gone.
    fn tail_ended(&self, error: &ReadError) -> bool {
        match error {
            ReadError::Sink(cause) if cause.kind() == io::ErrorKind::BrokenPipe => true,
            ReadError::Sink(_)
            | ReadError::NotFound(_)
            | ReadError::Refused(_)
            | ReadError::Busy { .. }
            | ReadError::Broken(_) => {
                // Also with `--quiet`, because missing output would go unnoticed.
                let name = self.job.name();
                self.notes
                    .print(format!("{name:<12} output is incomplete: {error}"));
                false
            }
        }
    }

    /// Handles an event. Returns the exit code if it was the last one.
    async fn handle(
        &mut self,
        event: RunEvent,
        signals: &mut Signals,
    ) -> Result<Option<u8>, Failure> {
        let now = self.session.started.elapsed();
        self.record_launch(&event);
        match event {
            RunEvent::Launching => {}
            RunEvent::Registered { framework_id } => {
                self.framework_id = framework_id;
                self.times.registered = Some(now);
            }
            RunEvent::Launched { agent_id } => {
                self.times.launched = Some(now);
                if !self.options.quiet && !self.members.all_started() {
                    let place = (agent_id.as_str(), self.framework_id.as_str());
                    self.preparing
                        .show(self.operator.http_masters(), place, self.job.tasks());
                }
                self.agent_id = Some(agent_id);
                if self.options.detach {
                    return self.detach().await.map(Some);
                }
            }
            RunEvent::LaunchLost { why } => self.launch_lost(&why)?,
            RunEvent::Refused { code, message } => {
                self.refusals += 1;
                if self.refusals >= TRIES || code.contains("invalid") || code.contains("too-large")
                {
                    self.remove().await;
                    return Err(Failure::new(
                        FailureCode::Refused,
                        format!("{} was refused: {message}", self.job.name()),
                    ));
                }
                self.last_refusal = Some(message);
            }
            RunEvent::Status(status) => return Ok(self.status(*status, signals).await),
            RunEvent::Disconnected { why } => {
                tracing::debug!(why, "the masters are unreachable");
                self.silent_since.get_or_insert_with(Instant::now);
            }
            RunEvent::Reconnected => {
                self.last_reason.clear();
                let silent = self.silent_since.take().map(|since| since.elapsed());
                if let Some(silent) = silent.filter(|silent| *silent >= CONTACT_LOSS) {
                    let text = format!(
                        "the masters are reachable again after {}",
                        span_ms(silent.as_millis() as u64)
                    );
                    self.print(&text);
                }
            }
        }
        Ok(None)
    }

    fn record_launch(&mut self, event: &RunEvent) {
        match event {
            RunEvent::Launching => self.may_have_launched = true,
            RunEvent::Refused { .. } => self.may_have_launched = false,
            RunEvent::Registered { .. }
            | RunEvent::Launched { .. }
            | RunEvent::LaunchLost { .. }
            | RunEvent::Status(_)
            | RunEvent::Disconnected { .. }
            | RunEvent::Reconnected => {}
        }
    }

    async fn status(&mut self, status: v1::TaskStatus, signals: &mut Signals) -> Option<u8> {
        let member = self.members.named(&status.task_id)?;
        let is_new = member.started.is_none();
        if !status.agent_id.is_empty() {
            self.agent_id = Some(status.agent_id.clone());
        }
        let state = v1::TaskState::try_from(status.state).unwrap_or_default();
        let has_ended = is_terminal(status.state);
        let ran = state == v1::TaskState::Running || (has_ended && status.exit.is_some());
        if ran && is_new {
            self.started(&status.task_id);
        }
        if state == v1::TaskState::Unreachable {
            let agent = self.agent_id.clone().unwrap_or_default();
            let text = match status.stopped {
                false => {
                    format!("{agent} is unreachable; the task may still run there, waiting for it")
                }
                true => format!("{agent} is unreachable; the task has stopped itself there"),
            };
            self.print_about(&status.task_id, &text);
        }
        if !has_ended {
            use v1::Reason as R;
            if let R::HealthCheckStatusUpdated | R::ReadinessCheckStatusUpdated = status.reason() {
                self.print_about(&status.task_id, &status.message);
            }
            return None;
        }
        let is_last = self.members.record_end(status.clone());
        let is_interrupted = is_last && !self.rest_is_written(signals).await;
        self.print_end(&status);
        if !is_last {
            return None;
        }
        self.remove().await;
        Some(match is_interrupted {
            true => INTERRUPTED,
            false => self.members.exit_code(),
        })
    }

    fn started(&mut self, task: &str) {
        self.preparing.end();
        let now = self.session.started.elapsed();
        self.times.started = Some(now);
        let Some(member) = self.members.named(task) else {
            return;
        };
        member.started = Some(now);
        let (label, over) = (member.label.clone(), member.ended.clone());
        let agent_id = self.agent_id.clone().unwrap_or_default();
        let text = outcome::start_text(&self.times, &agent_id);
        self.print_about(task, &text);
        let masters = self.operator.http_masters();
        if self.options.interactive {
            let typing = AttachedInput {
                masters,
                agent_id,
                framework_id: self.framework_id.clone(),
                task_id: task.to_owned(),
                tty: self.options.tty,
                notes: self.notes.sender(),
                ended: over,
            };
            self.tails.spawn(typing.run());
            return;
        }
        for file in ["stdout", "stderr"] {
            let location = FileLocation::of_task(&agent_id, &self.framework_id, task, file);
            let (masters, over) = (masters.clone(), over.clone());
            let stream = StandardStream::of_file(file);
            let mut labelled = PrefixedOutput::new(stream, file, label.clone());
            self.tails.spawn(async move {
                let mut files = FileReader::new(masters);
                // A paused reader blocks this thread. The others take over its tasks.
                let mut sink = |piece: FileChunk<'_>| block_in_place(|| labelled.pass(piece));
                let followed = files.follow(&location, 0, &over, &mut sink).await;
                block_in_place(|| labelled.finish(followed))
            });
        }
    }

    /// Prints a line about the whole job.
    fn print(&self, text: &str) {
        self.print_about(self.job.name(), text);
    }

    /// Prints a line about a task or the job unless `--quiet` is set.
    fn print_about(&self, name: &str, text: &str) {
        if !self.options.quiet {
            self.notes.print(format!("{name:<12} {text}"));
        }
    }

    fn print_end(&mut self, status: &v1::TaskStatus) {
        self.preparing.end();
        let now = self.session.started.elapsed();
        let task = &status.task_id;
        let started = self.members.named(task).and_then(|member| member.started);
        let ran = started.map(|started| now.saturating_sub(started));
        let text = outcome::end_text(status, ran);
        if started.is_some() {
            self.print_about(task, &text);
        } else {
            // Also with `--quiet`, because there is no output that would show it.
            self.notes
                .print(format!("{task:<12} never started: {text}"));
        }
    }

    async fn tick(
        &mut self,
        ask_at: &mut Instant,
        signals: &mut Signals,
    ) -> Result<Option<u8>, Failure> {
        if let Some(since) = self.silent_since
            && since.elapsed() >= CONTACT_LOSS
            && self.last_reason != "silent"
        {
            self.last_reason = "silent".to_owned();
            let what = if self.members.all_started() {
                "; the task keeps running"
            } else {
                ""
            };
            let text = format!("no leader for {} s{what}, waiting", CONTACT_LOSS.as_secs());
            self.print(&text);
        }
        if self.agent_id.is_some() {
            self.print_preparation();
            return Ok(None);
        }
        let waited = self.session.started.elapsed();
        // If the masters were never reached, the session itself ends, with its own failure.
        let is_known = !self.framework_id.is_empty();
        if let Some(limit) = self
            .options
            .timeout
            .filter(|limit| is_known && waited >= *limit)
        {
            let found = self.reason().await;
            return self.out_of_time(limit, found, signals).await;
        }
        if Instant::now() >= *ask_at && self.reason_request.is_none() && is_known {
            *ask_at = Instant::now() + REASON_INTERVAL;
            self.reason_request = Some(tokio::spawn(self.request_reason()));
        }
        Ok(None)
    }

    /// Reports from time to time what an agent does before a task starts.
    fn print_preparation(&mut self) {
        let Some(launched) = self.times.launched.filter(|_| !self.members.all_started()) else {
            return;
        };
        let waited = self.session.started.elapsed().saturating_sub(launched);
        let agent = self.agent_id.as_deref().unwrap_or_default();
        if let Some(text) = self.preparing.report(self.job.tasks(), agent, waited) {
            self.print(&text);
        }
    }

    fn request_reason(&self) -> impl Future<Output = Result<PendingReason, Failure>> + use<> {
        let masters = self.operator.masters().clone();
        let operator = self.operator.at(masters, self.operator.timeout());
        let job = self.job.clone();
        let refused = self.last_refusal.clone();
        let request = v1::ExplainRequest {
            framework_id: self.framework_id.clone(),
            task_id: String::new(),
            wanted: to_wire(job.wanted()),
        };
        async move {
            let framework_id = request.framework_id.clone();
            let explanation = operator.explain(request).await?;
            let agents = operator.agents(Listed::Excluded).await?.agents;
            let known = PendingContext {
                requested: job.wanted(),
                security_options: job.security_options(),
                sizes: job.sizes(),
                attributes: job.attributes(),
                agents: &agents,
                explanation: &explanation,
                framework_id: &framework_id,
                last_refusal: refused.as_deref(),
            };
            Ok(pending_reason::explain(&known))
        }
    }

    async fn reason(&self) -> Result<PendingReason, Failure> {
        self.request_reason().await
    }

    /// Prints the reason once, and again only when it has changed.
    fn print_reason(&mut self, found: Result<PendingReason, Failure>) {
        let PendingReason { reason, mut lines } = found.unwrap_or_else(|failure| PendingReason {
            reason: failure.message,
            lines: Vec::new(),
        });
        let all = format!("{reason}{}", lines.join("\n"));
        if self.agent_id.is_some() || all == self.last_reason {
            return;
        }
        self.last_reason = all;
        let last = "Still waiting; Ctrl-C cancels, and nothing is left behind";
        match lines.last_mut() {
            Some(line) => *line = format!("{line}. {last}"),
            None => lines.push(last.to_owned()),
        }
        let waited = span_ms(self.session.started.elapsed().as_millis() as u64);
        self.print(&format!("waiting {waited}: {reason}"));
        for line in lines.iter().filter(|_| !self.options.quiet) {
            self.notes.print(format!("  {line}"));
        }
    }
}
