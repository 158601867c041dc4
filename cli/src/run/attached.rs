//! An attached run: from the first contact with the masters to the end of the task.

use std::io;
use std::time::{Duration, Instant};

use argosy_client::resources::to_wire;
use argosy_proto::v1;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinHandle, JoinSet};

use super::ending::{self, Times};
use super::job::Job;
use super::members::Members;
use super::pending_reason::{self, Known, Why};
use super::prefixed_output::Labelled;
use super::scheduler::Event;
use super::stdin::Typing;
use super::{Manner, Session, session_failure, tell};
use crate::exit::{Code, DONE, Ended, Failure};
use crate::files::{Files, Piece, Place, ReadError};
use crate::operator::{Ended as Listed, Operator, is_terminal};
use crate::output::{self, note, span_ms};

/// Time for which a task waits before the reason is shown.
const PATIENCE: Duration = Duration::from_secs(5);
/// Interval at which the reason is updated.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Time without contact to the masters before it is reported.
const OUT_OF_REACH: Duration = Duration::from_secs(3);
/// Number of rejected launches after which the run fails.
const TRIES: usize = 20;
/// Timeout of the removal of the framework.
const FAREWELL: Duration = Duration::from_secs(5);
/// Exit code after Ctrl-C.
const INTERRUPTED: u8 = 130;

/// The state of one `run`.
pub(super) struct Attached {
    job: Job,
    members: Members,
    session: Session,
    operator: Operator,
    manner: Manner,
    framework_id: String,
    times: Times,
    agent_id: Option<String>,
    refused: Option<String>,
    refusals: usize,
    interrupts: u8,
    silent_since: Option<Instant>,
    last_reason: String,
    /// The pending request for the reason; at most one at a time.
    asking: Option<JoinHandle<Result<Why, Failure>>>,
    tails: JoinSet<Result<(), ReadError>>,
}

/// The event that woke the loop.
enum Woken {
    Event(Option<Event>),
    Interrupted,
    Why(Result<Why, Failure>),
    ReaderGone,
    Tick,
}

impl Attached {
    pub(super) fn new(job: Job, session: Session, operator: Operator, manner: Manner) -> Self {
        Self {
            members: Members::of(&job),
            job,
            session,
            operator,
            manner,
            framework_id: String::new(),
            times: Times::default(),
            agent_id: None,
            refused: None,
            refusals: 0,
            interrupts: 0,
            silent_since: None,
            last_reason: String::new(),
            asking: None,
            tails: JoinSet::new(),
        }
    }

    /// Runs until the task has ended, or until waiting is pointless.
    pub(super) async fn finish(mut self) -> Ended {
        let mut signals = Signals::new()?;
        let mut ticks = tokio::time::interval(Duration::from_millis(250));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ask_at = Instant::now() + PATIENCE;
        loop {
            let ended = match self.wait(&mut signals, &mut ticks).await {
                Woken::Event(Some(event)) => self.handle(event).await?,
                Woken::Event(None) => return self.session_ended().await,
                Woken::Interrupted => self.interrupted().await,
                Woken::ReaderGone => {
                    drop(self.session.driver.kill(self.members.first(), None));
                    None
                }
                Woken::Why(found) => {
                    self.asking = None;
                    self.say_why(found);
                    None
                }
                Woken::Tick => self.tick(&mut ask_at).await?,
            };
            if let Some(code) = ended {
                return Ok(code);
            }
        }
    }

    async fn wait(&mut self, signals: &mut Signals, ticks: &mut tokio::time::Interval) -> Woken {
        loop {
            let asking = self.asking.is_some();
            tokio::select! {
                event = self.session.events.recv() => return Woken::Event(event),
                () = signals.next() => return Woken::Interrupted,
                found = async { self.asking.as_mut().expect("guarded by the condition").await }, if asking => {
                    let failed = |_| Err(Failure::failed("the request for the reason failed"));
                    return Woken::Why(found.unwrap_or_else(failed));
                }
                Some(tail) = self.tails.join_next(), if !self.tails.is_empty() => {
                    if let Ok(Err(error)) = tail
                        && self.tail_ended(&error)
                    {
                        return Woken::ReaderGone;
                    }
                }
                _ = ticks.tick() => return Woken::Tick,
            }
        }
    }

    /// Returns whether the reader of the output is gone.
    fn tail_ended(&self, error: &ReadError) -> bool {
        match error {
            ReadError::Sink(cause) if cause.kind() == io::ErrorKind::BrokenPipe => true,
            ReadError::Sink(_)
            | ReadError::Absent(_)
            | ReadError::Refused(_)
            | ReadError::Broken(_) => {
                // Also with `--quiet`, because missing output would go unnoticed.
                note(&format!(
                    "{:<12} output is incomplete: {error}",
                    self.job.name()
                ));
                false
            }
        }
    }

    /// Handles an event. Returns the exit code if it was the last one.
    async fn handle(&mut self, event: Event) -> Result<Option<u8>, Failure> {
        let now = self.session.begun.elapsed();
        match event {
            Event::Registered { framework_id } => {
                self.framework_id = framework_id;
                self.times.registered = Some(now);
            }
            Event::Launched { agent_id } => {
                self.times.launched = Some(now);
                self.agent_id = Some(agent_id);
                if self.manner.detach {
                    return self.leave().await.map(Some);
                }
            }
            Event::Refused { code, message } => {
                self.refusals += 1;
                if self.refusals >= TRIES || code.contains("invalid") || code.contains("too-large")
                {
                    self.remove().await;
                    return Err(Failure::new(
                        Code::Refused,
                        format!("{} was refused: {message}", self.job.name()),
                    ));
                }
                self.refused = Some(message);
            }
            Event::Status(status) => return Ok(self.status(*status).await),
            Event::Disconnected { why } => {
                tracing::debug!(why, "the masters are unreachable");
                self.silent_since.get_or_insert_with(Instant::now);
            }
            Event::Reconnected => {
                self.last_reason.clear();
                let silent = self.silent_since.take().map(|since| since.elapsed());
                if let Some(silent) = silent.filter(|silent| *silent >= OUT_OF_REACH) {
                    let text = format!(
                        "the masters are reachable again after {}",
                        span_ms(silent.as_millis() as u64)
                    );
                    self.say(&text);
                }
            }
        }
        Ok(None)
    }

    async fn status(&mut self, status: v1::TaskStatus) -> Option<u8> {
        let member = self.members.named(&status.task_id)?;
        let is_new = member.started.is_none();
        if !status.agent_id.is_empty() {
            self.agent_id = Some(status.agent_id.clone());
        }
        let state = v1::TaskState::try_from(status.state).unwrap_or_default();
        let ran =
            state == v1::TaskState::Running || (is_terminal(status.state) && status.exit.is_some());
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
            tell(&self.manner, &status.task_id, &text);
        }
        if !is_terminal(status.state) {
            use v1::Reason as R;
            if let R::HealthCheckStatusUpdated | R::ReadinessCheckStatusUpdated = status.reason() {
                tell(&self.manner, &status.task_id, &status.message);
            }
            return None;
        }
        let is_last = self.members.ended(status.clone());
        if is_last {
            while let Some(tail) = self.tails.join_next().await {
                if let Ok(Err(error)) = tail {
                    self.tail_ended(&error);
                }
            }
        }
        self.say_end(&status);
        if !is_last {
            return None;
        }
        self.remove().await;
        Some(self.members.exit_code())
    }

    fn started(&mut self, task: &str) {
        let now = self.session.begun.elapsed();
        self.times.started = Some(now);
        let Some(member) = self.members.named(task) else {
            return;
        };
        member.started = Some(now);
        let (label, over) = (member.label.clone(), member.over.clone());
        let agent_id = self.agent_id.clone().unwrap_or_default();
        let text = ending::start_in_words(&self.times, &agent_id);
        tell(&self.manner, task, &text);
        let masters = self.operator.masters().addresses().to_vec();
        if self.manner.interactive {
            let typing = Typing {
                masters,
                agent_id,
                framework_id: self.framework_id.clone(),
                task_id: task.to_owned(),
                tty: self.manner.tty,
                over,
            };
            self.tails.spawn(typing.attend());
            return;
        }
        for file in ["stdout", "stderr"] {
            let place = Place::of_task(&agent_id, &self.framework_id, task, file);
            let (masters, over) = (masters.clone(), over.clone());
            let mut labelled = Labelled::new(file, label.clone());
            self.tails.spawn(async move {
                let broken = |error: anyhow::Error| ReadError::Broken(format!("{error:#}"));
                let mut files = Files::new(&masters).map_err(broken)?;
                let mut sink = |piece: Piece<'_>| labelled.pass(piece);
                let followed = files.follow(&place, &over, &mut sink).await;
                labelled.finish(followed)
            });
        }
    }

    /// Prints a line about the whole job.
    fn say(&self, text: &str) {
        tell(&self.manner, self.job.name(), text);
    }

    fn say_end(&mut self, status: &v1::TaskStatus) {
        let now = self.session.begun.elapsed();
        let task = &status.task_id;
        let started = self.members.named(task).and_then(|member| member.started);
        let ran = started.map(|started| now.saturating_sub(started));
        let text = ending::end_in_words(status, ran);
        if started.is_some() {
            tell(&self.manner, task, &text);
        } else {
            // Also with `--quiet`, because there is no output that would show it.
            note(&format!("{task:<12} never started: {text}"));
        }
    }

    async fn tick(&mut self, ask_at: &mut Instant) -> Result<Option<u8>, Failure> {
        if let Some(since) = self.silent_since
            && since.elapsed() >= OUT_OF_REACH
            && self.last_reason != "silent"
        {
            self.last_reason = "silent".to_owned();
            let what = if self.members.have_started() {
                "; the task keeps running"
            } else {
                ""
            };
            let text = format!("no leader for {} s{what}, waiting", OUT_OF_REACH.as_secs());
            self.say(&text);
        }
        if self.agent_id.is_some() {
            return Ok(None);
        }
        let waited = self.session.begun.elapsed();
        // If the masters were never reached, the session itself ends, with its own failure.
        let is_known = !self.framework_id.is_empty();
        if let Some(limit) = self
            .manner
            .timeout
            .filter(|limit| is_known && waited >= *limit)
        {
            let found = self.why().await;
            self.remove().await;
            return Err(ending::not_placed(self.job.name(), limit, found));
        }
        if Instant::now() >= *ask_at && self.asking.is_none() && is_known {
            *ask_at = Instant::now() + LOOK_AGAIN;
            self.asking = Some(tokio::spawn(self.ask_why()));
        }
        Ok(None)
    }

    fn ask_why(&self) -> impl Future<Output = Result<Why, Failure>> + Send + 'static {
        let operator = Operator::to(self.operator.masters().clone(), self.operator.timeout());
        let job = self.job.clone();
        let refused = self.refused.clone();
        let request = v1::ExplainRequest {
            framework_id: self.framework_id.clone(),
            task_id: String::new(),
            wanted: to_wire(job.wanted()),
        };
        async move {
            let agents = operator.agents(Listed::LeftOut).await?.agents;
            // If the masters give no explanation, the reason is computed from public state.
            let counts = operator
                .explain(request)
                .await
                .map(|found| found.counts)
                .unwrap_or_default();
            let known = Known {
                wanted: job.wanted(),
                opt_outs: job.opt_outs(),
                sizes: job.sizes(),
                agents: &agents,
                counts: &counts,
                refused: refused.as_deref(),
            };
            Ok(pending_reason::explain(&known))
        }
    }

    async fn why(&self) -> Result<Why, Failure> {
        self.ask_why().await
    }

    /// Prints the reason once, and again only when it has changed.
    fn say_why(&mut self, found: Result<Why, Failure>) {
        let Why { reason, mut lines } = found.unwrap_or_else(|failure| Why {
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
        let waited = span_ms(self.session.begun.elapsed().as_millis() as u64);
        self.say(&format!("waiting {waited}: {reason}"));
        for line in lines.iter().filter(|_| !self.manner.quiet) {
            note(&format!("  {line}"));
        }
    }

    /// Handles Ctrl-C: cancels while waiting, ends the task while it runs, exits at the third.
    async fn interrupted(&mut self) -> Option<u8> {
        self.interrupts += 1;
        let name = self.job.name().to_owned();
        // The end of this task ends its group.
        let first = self.members.first().to_owned();
        if self.agent_id.is_none() {
            self.remove().await;
            note(&format!("{name:<12} cancelled; nothing was started"));
            return Some(INTERRUPTED);
        }
        match self.interrupts {
            1 => {
                drop(self.session.driver.kill(&first, None));
                let grace = span_ms(self.manner.grace.as_millis() as u64);
                note(&format!(
                    "{name:<12} asked to end, killed after {grace}; Ctrl-C again kills it now"
                ));
                None
            }
            2 => {
                for task in self.job.tasks() {
                    drop(self.session.driver.kill(&task.task_id, Some(0)));
                }
                note(&format!(
                    "{name:<12} is being killed; Ctrl-C again exits without waiting"
                ));
                None
            }
            _ => {
                note(&format!(
                    "{name:<12} abandoned; the masters remove it 10 s after this program has exited"
                ));
                Some(INTERRUPTED)
            }
        }
    }

    /// Detaches: prints the ids and exits. The framework stays until its last task has ended.
    async fn leave(&mut self) -> Ended {
        self.session.driver.stop();
        // The session ends by itself once everything is acknowledged; a slow end changes nothing.
        let _ = tokio::time::timeout(FAREWELL, &mut self.session.ended).await;
        let id = |name: &str| format!("{}/{name}", self.framework_id);
        let tasks = self.job.tasks().iter();
        let lines: String = tasks.map(|task| id(&task.task_id) + "\n").collect();
        output::print(&lines)?;
        let first = id(self.members.first());
        let kill = match self.job.group() {
            "" => format!("argosy task kill {first}"),
            group => format!("argosy group kill {}", id(group)),
        };
        self.say(&format!(
            "keeps running; argosy logs -f {first} follows it, {kill} ends it"
        ));
        Ok(DONE)
    }

    /// Removes the framework. Only the history of a finished `run` remains.
    async fn remove(&mut self) {
        drop(self.session.driver.teardown());
        // If there is no leader now, the masters remove it later: its failover timeout is zero.
        let _ = tokio::time::timeout(FAREWELL, &mut self.session.ended).await;
    }

    async fn session_ended(self) -> Ended {
        match self.session.ended.await {
            Ok(Err(error)) => Err(session_failure(&error, self.job.name())),
            Ok(Ok(())) => Err(Failure::failed(format!(
                "{} ended without an answer",
                self.job.name()
            ))),
            Err(error) => Err(Failure::failed(format!("the session failed: {error}"))),
        }
    }
}

/// INT and TERM, as one stream.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::of(&error));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
