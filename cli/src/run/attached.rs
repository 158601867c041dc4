//! From the first contact to the end of the task: what the person in front of it sees.

use std::io;
use std::time::{Duration, Instant};

use argosy_proto::v1;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::ending::{self, Times};
use super::job::Job;
use super::placer::Event;
use super::typing::{Typing, write};
use super::waiting::{self, Known, Why};
use super::{Session, session_failure, tell};
use crate::exit::{Code, DONE, Ended, Failure};
use crate::files::{Files, Piece, Place, ReadError};
use crate::grammar::Run;
use crate::operator::{Ended as Listed, Operator, is_terminal};
use crate::output::{self, note, span_ms};

/// How long a task waits before it is said why.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the reason is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long the masters may be out of reach before it is said.
const OUT_OF_REACH: Duration = Duration::from_secs(3);
/// Refused launches after which it is given up.
const TRIES: usize = 20;
/// How long the removal of the framework is waited for.
const FAREWELL: Duration = Duration::from_secs(5);
/// What an end by Ctrl-C says to the shell.
const INTERRUPTED: u8 = 130;

/// The state of one `run`.
pub(super) struct Attached<'a> {
    job: Job,
    session: Session,
    operator: Operator,
    arguments: &'a Run,
    framework_id: String,
    times: Times,
    agent_id: Option<String>,
    has_started: bool,
    refused: Option<String>,
    refusals: usize,
    interrupts: u8,
    silent_since: Option<Instant>,
    last_reason: String,
    /// What asks the masters why; at most one at a time.
    asking: Option<JoinHandle<Result<Why, Failure>>>,
    tails: JoinSet<Result<(), ReadError>>,
    over: CancellationToken,
}

/// What woke the loop.
enum Woken {
    Event(Option<Event>),
    Interrupted,
    Why(Result<Why, Failure>),
    ReaderGone,
    Tick,
}

impl<'a> Attached<'a> {
    pub(super) fn new(job: Job, session: Session, operator: Operator, arguments: &'a Run) -> Self {
        Self {
            job,
            session,
            operator,
            arguments,
            framework_id: String::new(),
            times: Times::default(),
            agent_id: None,
            has_started: false,
            refused: None,
            refusals: 0,
            interrupts: 0,
            silent_since: None,
            last_reason: String::new(),
            asking: None,
            tails: JoinSet::new(),
            over: CancellationToken::new(),
        }
    }

    /// Until the task has ended, or nothing more is to be waited for.
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
                    drop(self.session.driver.kill(self.job.name(), None));
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
                    let failed = |_| Err(Failure::failed("asking why broke off"));
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

    /// Whether the reader of the output has gone away.
    fn tail_ended(&self, error: &ReadError) -> bool {
        match error {
            ReadError::Sink(cause) if cause.kind() == io::ErrorKind::BrokenPipe => true,
            ReadError::Sink(_)
            | ReadError::Absent(_)
            | ReadError::Refused(_)
            | ReadError::Broken(_) => {
                tell(
                    self.arguments,
                    self.job.name(),
                    &format!("output is incomplete: {error}"),
                );
                false
            }
        }
    }

    /// The exit code if that was the end.
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
                if self.arguments.detach {
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
                tracing::debug!(why, "the masters are out of reach");
                self.silent_since.get_or_insert_with(Instant::now);
            }
            Event::Reconnected => {
                self.last_reason.clear();
                let silent = self.silent_since.take().map(|since| since.elapsed());
                if let Some(silent) = silent.filter(|silent| *silent >= OUT_OF_REACH) {
                    let text = format!(
                        "the masters are back after {}",
                        span_ms(silent.as_millis() as u64)
                    );
                    tell(self.arguments, self.job.name(), &text);
                }
            }
        }
        Ok(None)
    }

    async fn status(&mut self, status: v1::TaskStatus) -> Option<u8> {
        if status.task_id != self.job.name() {
            return None;
        }
        if !status.agent_id.is_empty() {
            self.agent_id = Some(status.agent_id.clone());
        }
        let state = v1::TaskState::try_from(status.state).unwrap_or_default();
        let ran =
            state == v1::TaskState::Running || (is_terminal(status.state) && status.exit.is_some());
        if ran && !self.has_started {
            self.started();
        }
        if state == v1::TaskState::Unreachable {
            let agent = self.agent_id.clone().unwrap_or_default();
            tell(
                self.arguments,
                self.job.name(),
                &format!("{agent} is unreachable; the task may run on there, waiting for it"),
            );
        }
        if !is_terminal(status.state) {
            use v1::Reason as R;
            if let R::HealthCheckStatusUpdated | R::ReadinessCheckStatusUpdated = status.reason() {
                tell(self.arguments, self.job.name(), &status.message);
            }
            return None;
        }
        self.over.cancel();
        while let Some(tail) = self.tails.join_next().await {
            if let Ok(Err(error)) = tail {
                self.tail_ended(&error);
            }
        }
        self.say_end(&status);
        self.remove().await;
        Some(ending::exit_code(&status, self.has_started))
    }

    fn started(&mut self) {
        self.has_started = true;
        self.times.started = Some(self.session.begun.elapsed());
        self.say_start();
        let agent_id = self.agent_id.clone().unwrap_or_default();
        let masters = self.operator.masters().addresses().to_vec();
        if self.arguments.interactive {
            let typing = Typing {
                masters,
                agent_id,
                framework_id: self.framework_id.clone(),
                task_id: self.job.name().to_owned(),
                tty: self.arguments.tty,
                over: self.over.clone(),
            };
            self.tails.spawn(typing.attend());
            return;
        }
        for file in ["stdout", "stderr"] {
            let place = Place::of_task(&agent_id, &self.framework_id, self.job.name(), file);
            let (masters, over) = (masters.clone(), self.over.clone());
            self.tails.spawn(async move {
                let broken = |error: anyhow::Error| ReadError::Broken(format!("{error:#}"));
                let mut files = Files::new(&masters).map_err(broken)?;
                let mut sink = move |piece: Piece<'_>| write(file, piece);
                files.follow(&place, &over, &mut sink).await
            });
        }
    }

    fn say_start(&self) {
        let agent = self.agent_id.as_deref().unwrap_or_default();
        let text = ending::start_in_words(&self.times, agent);
        tell(self.arguments, self.job.name(), &text);
    }

    fn say_end(&self, status: &v1::TaskStatus) {
        let ran = self
            .times
            .started
            .map(|started| self.session.begun.elapsed().saturating_sub(started));
        let text = ending::end_in_words(status, ran);
        if self.has_started {
            tell(self.arguments, self.job.name(), &text);
        } else {
            // Never quiet: there is no output that would tell.
            note(&format!("{:<12} never started: {text}", self.job.name()));
        }
    }

    async fn tick(&mut self, ask_at: &mut Instant) -> Result<Option<u8>, Failure> {
        if let Some(since) = self.silent_since
            && since.elapsed() >= OUT_OF_REACH
            && self.last_reason != "silent"
        {
            self.last_reason = "silent".to_owned();
            let what = if self.has_started {
                "; the task runs on"
            } else {
                ""
            };
            tell(
                self.arguments,
                self.job.name(),
                &format!("no leader for {} s{what}, waiting", OUT_OF_REACH.as_secs()),
            );
        }
        if self.agent_id.is_some() {
            return Ok(None);
        }
        let waited = self.session.begun.elapsed();
        // Masters that were never reached end the session itself, with their own failure.
        let is_known = !self.framework_id.is_empty();
        if let Some(limit) = self
            .arguments
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
            wanted: job.spec().resources.clone(),
        };
        async move {
            let agents = operator.agents(Listed::LeftOut).await?.agents;
            // What anybody can see is enough if the masters do not explain.
            let counts = operator
                .explain(request)
                .await
                .map(|found| found.counts)
                .unwrap_or_default();
            let known = Known {
                wanted: job.wanted(),
                opt_outs: job.opt_outs(),
                agents: &agents,
                counts: &counts,
                refused: refused.as_deref(),
            };
            Ok(waiting::explain(&known))
        }
    }

    async fn why(&self) -> Result<Why, Failure> {
        self.ask_why().await
    }

    /// Says it once, and again only when it has changed.
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
        let last = "Still waiting; Ctrl-C gives up, and nothing is left behind";
        match lines.last_mut() {
            Some(line) => *line = format!("{line}. {last}"),
            None => lines.push(last.to_owned()),
        }
        let waited = span_ms(self.session.begun.elapsed().as_millis() as u64);
        tell(
            self.arguments,
            self.job.name(),
            &format!("waiting {waited}: {reason}"),
        );
        for line in lines.iter().filter(|_| !self.arguments.quiet) {
            note(&format!("  {line}"));
        }
    }

    /// Ctrl-C: gives up while waiting, ends the task while it runs, leaves at the third.
    async fn interrupted(&mut self) -> Option<u8> {
        self.interrupts += 1;
        let name = self.job.name().to_owned();
        if self.agent_id.is_none() {
            self.remove().await;
            note(&format!("{name:<12} given up; nothing was started"));
            return Some(INTERRUPTED);
        }
        match self.interrupts {
            1 => {
                drop(self.session.driver.kill(&name, None));
                let grace = span_ms(self.arguments.grace.as_millis() as u64);
                note(&format!(
                    "{name:<12} told to end, killed after {grace}; Ctrl-C again kills it now"
                ));
                None
            }
            2 => {
                drop(self.session.driver.kill(&name, Some(0)));
                note(&format!(
                    "{name:<12} is being killed; Ctrl-C again leaves without waiting"
                ));
                None
            }
            _ => {
                note(&format!(
                    "{name:<12} left; the masters remove it 10 s after this program is gone"
                ));
                Some(INTERRUPTED)
            }
        }
    }

    /// Detached: prints the id and goes; the framework stays until its task has ended.
    async fn leave(&mut self) -> Ended {
        let id = format!("{}/{}", self.framework_id, self.job.name());
        self.session.driver.stop();
        // It ends by itself once everything is answered; a slow end changes nothing.
        let _ = tokio::time::timeout(FAREWELL, &mut self.session.ended).await;
        output::print(&format!("{id}\n"))?;
        tell(
            self.arguments,
            self.job.name(),
            &format!("runs on; argosy logs -f {id} follows it, argosy task kill {id} ends it"),
        );
        Ok(DONE)
    }

    /// Removes the framework: nothing of a finished `run` stays but its history.
    async fn remove(&mut self) {
        drop(self.session.driver.teardown());
        // If nobody leads now, the masters remove it by themselves: its failover timeout is zero.
        let _ = tokio::time::timeout(FAREWELL, &mut self.session.ended).await;
    }

    async fn session_ended(self) -> Ended {
        match self.session.ended.await {
            Ok(Err(error)) => Err(session_failure(&error, self.job.name())),
            Ok(Ok(())) => Err(Failure::failed(format!(
                "{} ended without an answer",
                self.job.name()
            ))),
            Err(error) => Err(Failure::failed(format!("the session broke off: {error}"))),
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
